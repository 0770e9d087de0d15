"""Names that Kubernetes and the KubeRay controller take, made from what people call their jobs and runs.

Source: DNS-1035 labels (validation.IsDNS1035Label of k8s.io/apimachinery), and the lengths beside
`ValidateRayClusterMetadata` and its like (ray-operator/controllers/ray/utils/validation.go and constant.go): KubeRay
appends to a name, and the result has to be a label of 63 characters.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Literal
from urllib.parse import quote

Kind = Literal["RayCluster", "RayJob", "RayService", "RayCronJob"]

LONGEST: dict[Kind, int] = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
"""Characters of the longest name of each kind."""
DIGEST_CHARS = 8
FIRST = "r-"
"""Stands before a name that does not start with a letter."""

_OTHER = re.compile(r"[^a-z0-9]+")


def resource_name(text: str, kind: Kind) -> str:
    """The name of a resource. What is a name already stays as it is; any other gets a digest, so that two differ."""
    slug = slugged(text)
    if slug == text and len(slug) <= LONGEST[kind]:
        return slug
    suffix = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARS]
    return f"{slug[: LONGEST[kind] - DIGEST_CHARS - 1].rstrip('-')}-{suffix}"


def slugged(text: str) -> str:
    """Lower case letters, digits and single dashes, a letter first: `Größe (neu)` is `gro-e-neu`."""
    plain = unicodedata.normalize("NFKD", text.lower())
    bare = "".join(char for char in plain if not unicodedata.combining(char))
    slug = _OTHER.sub("-", bare).strip("-")
    return slug if slug[:1].isalpha() else f"{FIRST}{slug}".rstrip("-")


def percent_encoded(text: str) -> str:
    """A text in letters, digits, `-_.~` and `%`, which no shell and no JSON acts on; `urllib.parse.unquote` undoes it.

    KubeRay writes the metadata of a job in double quotes into a `bash -c` (BuildJobSubmitCommand, ray-operator/
    controllers/ray/common/job.go): `$(id)` would run there.
    """
    return quote(text, safe="", errors="surrogatepass")
