"""A Kubernetes API server over HTTP.

The official client finds the server and the credentials (kubeconfig, plugins, a pod's service account); requests go
through its connection pool, as its own classes know neither KubeRay's kinds nor a log that is read while it grows.

Sources: kubernetes.io/docs/reference/using-api/server-side-apply and .../api-concepts (dry run).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from rayml.backends.kuberay.exchange import Answer, Asked, as_answer, is_no_object
from rayml.backends.kuberay.pods import Document
from rayml.backends.kuberay.refusals import Unanswered, refusal
from rayml.errors import BackendError, RaymlError
from rayml.redact.text import redacted

MANAGER = "rayml"
"""Owner of the fields that are applied."""
OURS = ("app.kubernetes.io/managed-by", "rayml")
"""Label of every document that rayml makes, and its value."""
APPLY, JSON = "application/apply-patch+yaml", "application/json"
PAGE = 100
"""Objects of a cluster-wide list that are asked for at a time."""
CONNECT_TIMEOUT_S, TIMEOUT_S, SILENCE_S = 5.0, 60.0, 600.0
"""To connect; for an answer (an admission webhook may take 30 s); between two lines of a log that is followed."""
POD_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
INSTALL = "pip install 'rayml[kubernetes]'"


@dataclass(frozen=True)
class Applied:
    """An object after it was applied."""

    document: Document
    is_new: bool

    @property
    def uid(self) -> str:
        """Differs from that of every other object, and of an earlier one of the same name."""
        return str(self.document["metadata"]["uid"])


class KubeApi:
    """A server, and who asks. Every method raises BackendError or PlanError where the server does not do what is asked.

    Args:
        client: an ApiClient of the official library.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.server = str(client.configuration.host).rstrip("/")

    def apply(self, document: Document, *, dry_run: bool = False, force: bool = False) -> Applied:
        """Make an object, or bring the fields that are named in it to what is said there (server-side apply).

        Args:
            dry_run: the server checks everything, admission and quota among it, and stores nothing.
            force: take fields over from others; for objects that rayml has made.
        """
        about = document["metadata"]
        asked = Asked("patch", document["kind"], about["namespace"], about["name"])
        query = {"fieldManager": MANAGER, "force": str(force).lower(), **({"dryRun": "All"} if dry_run else {})}
        answer = self._ask("PATCH", asked, query, json.dumps(document), APPLY)
        return Applied(self._good(asked, answer), answer.status == 201)

    def get(self, kind: str, namespace: str, name: str) -> Document | None:
        """An object; None where there is none of that name."""
        asked = Asked("get", kind, namespace, name)
        answer = self._ask("GET", asked)
        if is_no_object(asked, answer):
            return None
        return self._good(asked, answer)

    def list(self, kind: str, namespace: str, *, labels: str = "", fields: str = "") -> list[Document]:
        """Objects by their labels or fields (`a=b,c=d`); those of the whole namespace without either."""
        asked = Asked("list", kind, namespace)
        query = {"labelSelector": labels, "fieldSelector": fields}
        answer = self._ask("GET", asked, {key: value for key, value in query.items() if value})
        return list(self._good(asked, answer).get("items") or [])

    def list_all(self, kind: str) -> Iterator[Document]:
        """Every object of a kind that belongs to the whole cluster, page by page."""
        asked, more = Asked("list", kind, ""), ""
        while True:
            query = {"limit": str(PAGE), **({"continue": more} if more else {})}
            found = self._good(asked, self._ask("GET", asked, query))
            yield from found.get("items") or []
            more = str((found.get("metadata") or {}).get("continue") or "")
            if not more:
                return

    def document(self, path: str) -> Document:
        """A document of the server that is no object, such as `/openapi/v3`.

        Args:
            path: as the server names it, its query included.
        """
        asked = Asked("get", "", "", document=path)
        return self._good(asked, self._ask("GET", asked))

    def delete(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> bool:
        """Delete an object, and in the background what it owns; whether there was one.

        Args:
            uid: of the one that is meant, so that a later one of that name stays.
        """
        asked = Asked("delete", kind, namespace, name)
        options: Document = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        answer = self._ask("DELETE", asked, {}, json.dumps(options), JSON)
        if is_no_object(asked, answer) or (uid is not None and answer.status == 409):
            return False
        self._good(asked, answer)
        return True

    def log(self, namespace: str, pod: str, *, follow: bool = False, since: str = "") -> Iterator[str]:
        """Lines of a pod's first container, each behind the time at which it was written and a space.

        Args:
            follow: go on until the container ends.
            since: RFC 3339; what was written in the second of it and later.
        """
        asked = Asked("get", "Pod", namespace, pod, "log")
        query = {
            "timestamps": "true",
            **({"follow": "true"} if follow else {}),
            **({"sinceTime": since} if since else {}),
        }
        with self._opened("GET", asked, query, None, None, SILENCE_S if follow else TIMEOUT_S) as response:
            if response.status != 200:
                self._good(asked, as_answer(response.status, self._read(response)))
            yield from self._lines(response)

    def _lines(self, response: Any) -> Iterator[str]:
        rest = b""
        for chunk in response.stream(decode_content=True):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def _ask(
        self,
        method: str,
        asked: Asked,
        query: dict[str, str] | None = None,
        body: str | None = None,
        kind: str | None = None,
    ) -> Answer:
        with self._opened(method, asked, query or {}, body, kind, TIMEOUT_S) as response:
            return as_answer(response.status, self._read(response))

    def _read(self, response: Any) -> str:
        return str(response.read(decode_content=True).decode(errors="replace"))

    @contextlib.contextmanager
    def _opened(
        self, method: str, asked: Asked, query: dict[str, str], body: str | None, kind: str | None, timeout_s: float
    ) -> Iterator[Any]:
        url = f"{self.server}{asked.path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json, */*", **self._credentials(), **({"Content-Type": kind} if kind else {})}
        response = None
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s),
                preload_content=False,
                retries=False,
            )
            yield response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        finally:
            if response is not None:
                response.close()

    def _credentials(self) -> dict[str, str]:
        """Headers that say who asks. A plugin is asked for a new token here when the old one is over."""
        settings = self._client.configuration.auth_settings().values()
        return {str(each["key"]): str(each["value"]) for each in settings if each["in"] == "header"}

    def _good(self, asked: Asked, answer: Answer) -> Document:
        if answer.status in (200, 201, 202) and answer.document:
            return answer.document
        raise self._without_secrets(refusal(asked, answer, self.server))

    def _without_secrets(self, error: RaymlError) -> RaymlError:
        """The same error, should the server or a proxy have repeated what it was shown."""
        return type(error)(self._clean(error.what), where=self._clean(error.where), hint=self._clean(error.hint))

    def _clean(self, text: str) -> str:
        settings = self._client.configuration
        words = [word for value in settings.api_key.values() for word in str(value).split()]
        for secret in (*words, settings.password):
            if secret and secret not in ("Bearer", "Basic"):
                text = text.replace(secret, "***")
        return redacted(text)

    def _unreachable(self, error: Exception) -> RaymlError:
        return self._without_secrets(
            Unanswered(
                f"the Kubernetes API server cannot be reached: {reason_of(error)}",
                where=self.server,
                hint="check the network or VPN; `kubectl config use-context NAME` chooses another cluster",
            )
        )


def connect(context: str | None = None) -> KubeApi:
    """The server of the kubeconfig (`KUBECONFIG`, else ~/.kube/config), or in a pod without one, that of the pod.

    Args:
        context: of the kubeconfig; its current one where none is named.
    Raises:
        RaymlError: the official client is not installed.
        BackendError: no configuration is found, or it cannot be used.
    """
    config = library("kubernetes.config")
    files = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    if context is None and POD_ACCOUNT.exists() and not any(Path(each).exists() for each in files.split(os.pathsep)):
        return KubeApi(in_pod(config))
    try:
        return KubeApi(config.new_client_from_config(config_file=files, context=context, persist_config=False))
    except config.ConfigException as error:
        what = redacted(" ".join(str(error).split()))
    except Exception as error:
        # The library lets a damaged file through as whatever its reader stumbles over; such a text may quote a token.
        what = f"it cannot be read ({type(error).__name__})"
    raise BackendError(
        f"the kubeconfig leads to no cluster: {what}",
        where=files,
        hint="kubectl config get-contexts lists what there is; KUBECONFIG names another file",
    )


def in_pod(config: Any) -> Any:
    """A client with the rights of the pod's service account."""
    settings = library("kubernetes.client").Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException as error:
        raise BackendError(
            f"the pod's service account cannot be used: {redacted(str(error))}",
            where=str(POD_ACCOUNT.parent),
            hint="give the pod an account with automountServiceAccountToken: true, such as rayml-submitter",
        ) from None
    return library("kubernetes.client").ApiClient(settings)


def library(name: str) -> Any:
    """A module of the official client."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise RaymlError("sending to Kubernetes needs its Python client", where=name, hint=INSTALL) from None


def reason_of(error: Exception) -> str:
    """Why nothing came back, in a few words."""
    text = str(error)
    if isinstance(error, urllib3.exceptions.SSLError):
        return "its certificate is not trusted, or it speaks no TLS"
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "its name is unknown"
    # A NewConnectionError is a TimeoutError to urllib3, whatever the system has said.
    if "refused" in text:
        return "connection refused"
    if isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)):
        return "it does not answer"
    return redacted(text.rpartition(": ")[2] or type(error).__name__)
