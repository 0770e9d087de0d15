"""What a secret looks like: the one table of shapes, used by lint, by the job file's check and by every output.

The shapes are those that their issuers document; JSON Web Tokens (RFC 7519), PEM (RFC 7468), passwords in URLs (RFC
3986) and credentials in headers (RFC 9110) among them. A pattern is compiled, and tried, where one of its anchors is in
the text: most lines hold none, and are searched as fast as `in` searches. No pattern starts twice inside a run of the
characters that it repeats, so a text of a mebibyte is searched in one pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

HIDDEN = "(hidden)"
"""What stands in the place of a secret."""
GROUP = "secret"
"""The group of a pattern that is hidden; all of the match where it has none."""


@dataclass(frozen=True)
class Shape:
    """One kind of secret.

    Args:
        words: what it is called in a sentence.
        anchors: in lower case; a text without any of them does not hold this secret.
        pattern: a regular expression, with a group `secret` where only a part is one.
    """

    words: str
    anchors: tuple[str, ...]
    pattern: str

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def may_be_in(self, lower: str) -> bool:
        """Whether a text in lower case has an anchor."""
        return any(anchor in lower for anchor in self.anchors)


SK = r"\bsk-(?:[A-Za-z0-9_]{0,15}-){0,6}(?=[A-Za-z_]*\d)[A-Za-z0-9_]{16,}[A-Za-z0-9_-]*"
"""OpenAI, Anthropic and others: with a run of 16 characters without a dash, which a name of several words has not."""

WHOLE = (
    Shape(
        "a private key",
        ("-----begin ",),
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z0-9 ]+-----|\Z)",
    ),
    Shape("a private key of PuTTY", ("private-lines:",), r"Private-Lines: ?\d+(?P<secret>(?:\r?\n[A-Za-z0-9+/=]+)+)"),
    Shape(
        "a JSON Web Token",
        ("eyj",),
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?",
    ),
)  # fmt: skip
"""What is known by its own form. They span lines or hold other shapes, so they come first."""

BESIDE = (
    Shape("a password in a URL", ("://",), r"(?<=://)(?P<secret>[^\s/@:?#\"'<>]{0,200}:[^\s/@?#\"'<>]{1,200})(?=@)"),
    Shape(
        "a token in a URL",
        ("://",),
        r"(?<=://)(?P<secret>(?=[^\s/@]*\d)[A-Za-z0-9_~.-]{20,200})(?=@)",
    ),
    Shape(
        "a token in a header",
        ("authorization", "x-api-key", "cookie"),
        r"(?i:\b(?:proxy-)?authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:(?:bearer|basic|token|apikey|digest|ssws)\s{1,4})?"
        r"|\bx-api-key[\"']?\s{0,4}[:=]\s{0,4}[\"']?|\b(?:set-)?cookie[\"']?\s{0,4}[:=]\s{0,4}[\"']?[\w.-]{1,64}=)"
        r"(?P<secret>(?!(?i:bearer|basic|token|apikey|digest|ssws)\b)[A-Za-z0-9._~+/=:-]{6,})",
    ),
    Shape(
        "a token in a header",
        ("bearer", "basic", "token", "ssws"),
        r"\b(?:[Bb]earer|Basic|Token|SSWS)\s{1,4}(?P<secret>(?=[A-Za-z._~+/=-]*\d)[A-Za-z0-9._~+/=-]{16,})",
    ),
    Shape(
        "a login in a Docker configuration",
        ('auth"', "auth\\"),
        r"\"auth\\{0,15}\"[ \t]{0,8}:[ \t]{0,8}\\{0,15}\"(?P<secret>(?=[A-Za-z+/=]*\d)[A-Za-z0-9+/=]{12,})",
    ),
    Shape(
        "a password of .netrc",
        ("password",),
        r"\b(?:login|account|machine)\s{1,8}\S{1,200}\s{1,8}password\s{1,8}(?P<secret>\S+)",
    ),
    Shape(
        "a password on a command line",
        ("-u ", "-u\t", "--user"),
        r"(?<!\S)(?:-u|--user|--proxy-user)[ \t=]{1,4}[^\s:]{1,100}:(?P<secret>(?!\d+(?:\s|$))\S+)",
    ),
    Shape(
        "a secret on a command line",
        ("--",),
        r"(?<![\w-])--(?:[a-z]{1,20}-){0,4}(?:password|passwd|token|secret|api-?key|access-key|secret-key)[ \t]{1,4}"
        r"(?P<secret>(?=[^\s\d]{0,200}\d)[^\s\"'-][^\s\"']{5,})",
    ),
)  # fmt: skip
"""What is known by what stands beside it; in source code that is often a name, and no secret."""

ISSUED = (
    Shape(
        "a key of AWS",
        ("akia", "asia", "agpa", "aida", "aroa", "anpa"),
        r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}\b",
    ),
    Shape("a key of Bedrock", ("absk",), r"\bABSK[A-Za-z0-9+/]{40,}={0,2}"),
    Shape("a token of Hugging Face", ("hf_", "api_org_"), r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}"),
    Shape("a key that starts with sk-", ("sk-",), SK),
    Shape(
        "a token of GitHub",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    ),
    Shape(
        "a token of GitLab",
        ("glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glsoat-", "glft-", "glagent-", "gloas-"),
        r"\bgl(?:pat|dt|rt|ptt|cbt|soat|ft|agent|oas)-[A-Za-z0-9_.-]{16,}",
    ),
    Shape(
        "a token of Slack",
        ("xox", "xapp-", "hooks.slack.com"),
        r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    ),
    Shape(
        "a key of Google",
        ("aiza", "ya29.", "gocspx-", "1//0"),
        r"\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{20,}|\bGOCSPX-[A-Za-z0-9_-]{20,}|\b1//0[A-Za-z0-9_-]{30,}",
    ),
    Shape(
        "a key of Stripe",
        ("k_live_", "k_test_", "whsec_"),
        r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|\bwhsec_[A-Za-z0-9+/]{16,}",
    ),
    Shape("a token of PyPI", ("pypi-",), r"\bpypi-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{32,}"),
    Shape("a token of npm", ("npm_",), r"\bnpm_[A-Za-z0-9]{20,}"),
    Shape("a token of RubyGems", ("rubygems_",), r"\brubygems_[a-f0-9]{40,}"),
    Shape("a key of SendGrid", ("sg.",), r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    Shape("a key of Twilio", ("sk",), r"\bSK[0-9a-f]{32}\b"),
    Shape("a key of Mailgun", ("key-",), r"(?<![\w-])key-[0-9a-f]{32}\b"),
    Shape("a key of Mailchimp", ("-us",), r"\b[0-9a-f]{32}-us\d{1,2}\b"),
    Shape(
        "a key of Azure",
        ("accountkey=", "sharedaccesskey=", "sig="),
        r"\b(?:AccountKey|SharedAccessKey|sig)=(?P<secret>[A-Za-z0-9+/%]{20,}={0,2})",
    ),
    Shape("a secret of Entra", ("8q~",), r"(?<![A-Za-z0-9_.~-])[A-Za-z0-9_~.-]{3}8Q~[A-Za-z0-9_~.-]{31,34}"),
    Shape("a token of Azure DevOps", ("azdo",), r"\b[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}\b"),
    Shape("a token of Databricks", ("dapi",), r"\bdapi[a-f0-9]{32}\b"),
    Shape("a token of DigitalOcean", ("_v1_",), r"\bdo[opr]_v1_[a-f0-9]{40,}"),
    Shape("a token of Docker", ("dckr_",), r"\bdckr_(?:pat|oat)_[A-Za-z0-9_-]{16,}"),
    Shape("a token of Vault", ("hvs.", "hvb.", "hvr."), r"\bhv[bsr]\.[A-Za-z0-9_-]{20,}"),
    Shape("a token of Terraform", (".atlasv1.",), r"\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{40,}"),
    Shape("a token of Pulumi", ("pul-",), r"\bpul-[a-f0-9]{40}\b"),
    Shape("a key of age", ("age-secret-key-1",), r"\bAGE-SECRET-KEY-1[A-Z0-9]{20,}"),
    Shape("a key of NVIDIA", ("nvapi-",), r"\bnvapi-[A-Za-z0-9_-]{20,}"),
    Shape("a token of Grafana", ("glc_", "glsa_"), r"\bgl(?:c|sa)_[A-Za-z0-9_+/=]{20,}"),
    Shape(
        "a key of New Relic",
        ("nrak-", "nral", "nrii-", "nrjs-"),
        r"\bNR(?:AK|II|JS)-[A-Za-z0-9_-]{19,}|\b[a-f0-9]{36}NRAL\b",
    ),
    Shape("a token of Datadog", ("ddapi_", "ddapp_", "ddpat_"), r"\bdd(?:api|app|pat)_[A-Za-z0-9]{30,}"),
    Shape("a token of Sentry", ("sntrys_", "sntryu_"), r"\bsntry[su]_[A-Za-z0-9_+/=-]{40,}"),
    Shape("a token of Dynatrace", ("dt0",), r"\bdt0[a-z]\d\d\.[A-Z0-9]{24}\.[A-Z0-9]{64}"),
    Shape("a key of Weights & Biases", ("wandb_v1_",), r"\bwandb_v1_[A-Za-z0-9_]{20,}"),
    Shape("a key of Groq", ("gsk_",), r"\bgsk_[A-Za-z0-9]{30,}"),
    Shape("a token of Replicate", ("r8_",), r"\br8_[A-Za-z0-9]{30,}"),
    Shape("a key of xAI or Perplexity", ("xai-", "pplx-"), r"\b(?:xai|pplx)-[A-Za-z0-9]{40,}"),
    Shape("a key of Fireworks or Langfuse", ("fw_", "lf-"), r"\bfw_[A-Za-z0-9]{22,}|\b[sp]k-lf-[a-f0-9-]{30,}"),
    Shape(
        "a token of Atlassian",
        ("atatt3", "atbb", "atctt3"),
        r"\bAT[AC]TT3[A-Za-z0-9_=-]{40,}|\bATBB[A-Za-z0-9_=-]{24,}",
    ),
    Shape("a key of Artifactory", ("akcp",), r"\bAKCp[A-Za-z0-9]{60,}"),
    Shape("a token of Discord", ("discord",), r"discord(?:app)?\.com/api/webhooks/\d+/[A-Za-z0-9_-]{40,}"),
    Shape("a token of Telegram", (":aa",), r"(?<!\d)\d{8,10}:AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])"),
    Shape("a token of Shopify", ("shpat_", "shpss_", "shpca_", "shppa_"), r"\bshp(?:at|ss|ca|pa)_[a-fA-F0-9]{32}"),
    Shape(
        "a key of Linear, Notion, Figma or Airtable",
        ("lin_api_", "ntn_", "figd_", "pat"),
        r"\blin_api_[A-Za-z0-9]{32,}"
        r"|\bntn_[A-Za-z0-9]{40,}"
        r"|\bfigd_[A-Za-z0-9_-]{40,}"
        r"|\bpat[A-Za-z0-9]{14}\.[a-f0-9]{64}",
    ),
    Shape(
        "a token of Supabase or PlanetScale",
        ("sbp_", "pscale_"),
        r"\bsbp_[a-f0-9]{40}|\bpscale_(?:tkn|pw|oauth)_[A-Za-z0-9_=.-]{30,}",
    ),
    Shape("a token of Heroku", ("hrku-",), r"\bHRKU-[A-Za-z0-9_-]{30,}"),
    Shape("a token of Doppler", ("dp.",), r"\bdp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._-]{40,}"),
    Shape("a key of Postman", ("pmak-",), r"\bPMAK-[a-f0-9]{24}-[a-f0-9]{34}"),
    Shape("a token of Fly.io", ("fm1_", "fm2_"), r"\bfm[12]_[A-Za-z0-9+/=_-]{40,}"),
)  # fmt: skip
"""What its issuer's prefix tells."""

SHAPES = (*WHOLE, *BESIDE, *ISSUED)


def shape_of(text: str) -> str | None:
    """What the text holds, in words; None where it holds no secret shape."""
    lower = text.lower()
    found = (shape.words for shape in SHAPES if shape.may_be_in(lower) and shape.compiled.search(text))
    return next(found, None)


def without_shapes(text: str) -> str:
    """A text in which every secret shape is replaced."""
    lower = text.lower()
    for shape in _present(lower):
        text = shape.compiled.sub(_hide, text)
    return text


def _present(lower: str) -> Iterator[Shape]:
    return (shape for shape in SHAPES if shape.may_be_in(lower))


def _hide(match: re.Match[str]) -> str:
    if GROUP not in match.re.groupindex:
        return HIDDEN
    whole, start = match[0], match.start()
    return f"{whole[: match.start(GROUP) - start]}{HIDDEN}{whole[match.end(GROUP) - start :]}"
