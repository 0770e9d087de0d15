"""`compress.search` is a sweep whose trials train alike: it becomes the job's `tune` section."""

from __future__ import annotations

from rayml.spec.compress import CompressSearchSpec
from rayml.spec.job import JobSpec
from rayml.spec.tune import KeyPath, RangeSpec, TuneSpec

PREFIX = "compress."


def with_search_as_sweep(job: JobSpec) -> JobSpec:
    """The job with the search of its ladder in the place of a sweep; the job itself where it has none."""
    if job.compress is None or job.compress.search is None:
        return job
    compress = job.compress.model_copy(update={"search": None})
    return job.model_copy(update={"compress": compress, "tune": as_sweep(job.compress.search)})


def as_sweep(search: CompressSearchSpec) -> TuneSpec:
    """The same sweep with keys of the whole job."""
    document = search.model_dump(mode="json", exclude_none=True)
    document["space"] = {below(path): ranged(written) for path, written in search.space.items()}
    document["known"] = [{below(path): value for path, value in each.items()} for each in search.known]
    document["constraints"] = [text.replace("ladder.", f"{PREFIX}ladder.") for text in search.constraints]
    return TuneSpec.model_validate(document)


def ranged(written: RangeSpec) -> dict[str, object]:
    document = written.model_dump(mode="json", exclude_none=True)
    return {**document, "when": {below(path): value for path, value in written.when.items()}}


def below(path: KeyPath) -> str:
    return path if path.startswith(PREFIX) else f"{PREFIX}{path}"


def place_in_file(job: JobSpec, at: tuple[str, ...]) -> tuple[str, ...]:
    """Where the job's file has what `at` names in the sweep that its search became."""
    if job.compress is None or job.compress.search is None or at[:1] != ("tune",):
        return at
    return ("compress", "search", *(part.removeprefix(PREFIX) for part in at[1:]))


def search_problems(job: JobSpec) -> list[tuple[tuple[str, ...], str]]:
    """A search beside a sweep: one sweep can search both."""
    if job.compress is None or job.compress.search is None or job.tune is None:
        return []
    what = "the job has a `tune` section too; write these keys into tune.space, as `compress.ladder.1.structured`"
    return [(("compress", "search"), what)]
