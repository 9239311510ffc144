"""The runs of one visit: kept small, exported and imported as run records. Knows nothing of gradio.

An imported file is untrusted: it is a record only once every field has been checked against its type and its bounds.
"""

import json
import zlib
from dataclasses import dataclass

from hfjax_demo.errors import InvalidRequestError, readable_bytes
from hfjax_demo.events import RECORD_SCHEMA, RunRecord
from hfjax_demo.mesh_agreement import MeshKey, mesh_key
from hfjax_demo.plain_json import from_dict, to_dict
from hfjax_demo.plots.hover_text import shown_text
from hfjax_demo.ui.record_check import check_record
from hfjax_demo.ui.words import plural, setting_words

MAX_RUNS = 50
MAX_PACKED_BYTES = 16 * 1024 * 1024
"""A thousand tokens of a 30-layer model, 5 MB of JSON, take a fiftieth of that."""
MAX_IMPORT_BYTES = 16 * 1024 * 1024
RECORD_SIGN = b"hfjax_demo.run."
"""Begins every schema's name: what lacks it is no record, and need not be parsed to know that."""
MAX_MODEL_CHARS = 64
MAX_PROMPT_CHARS = 40


@dataclass(frozen=True)
class StoredRun:
    """A run, compressed: a record repeats every layer's shape at every step and shrinks to a fiftieth.

    Attributes:
        name: "run 3", or "imported 4": unique within the visit.
        title: the name and the setting: "run 3 · jit, fixed cache".
        label: one line for a list: the title, then what ran and how it went.
        packed: the record's JSON, zlib-compressed.
        is_imported: whether it came from a file, which anyone may have written.
        mesh_key: what a plan of its mesh is made for; None where it had none to compare.
    """

    name: str
    title: str
    label: str
    packed: bytes
    is_imported: bool = False
    mesh_key: MeshKey | None = None

    @property
    def json(self) -> str:
        """The record as the JSON of `generate --json`."""
        return zlib.decompress(self.packed).decode()

    @property
    def record(self) -> RunRecord:
        """The record itself."""
        return from_dict(RunRecord, json.loads(self.json))

    @property
    def file_name(self) -> str:
        """What the run is called as a file."""
        return f"hfjax_demo-{self.name.replace(' ', '-')}.json"


@dataclass(frozen=True)
class RunHistory:
    """The runs of a visit, oldest first; adding one gives a new history.

    Attributes:
        runs: at most `MAX_RUNS` and `MAX_PACKED_BYTES`; the oldest goes first, the newest is always kept.
        num_added: runs added so far, dropped ones included, so that names are never used twice.
    """

    runs: tuple[StoredRun, ...] = ()
    num_added: int = 0

    def add(self, record: RunRecord, is_imported: bool = False) -> "RunHistory":
        """This history with one more run."""
        number = self.num_added + 1
        name = f"imported {number}" if is_imported else f"run {number}"
        title = f"{name} · {setting_words(record.request)}"
        packed = zlib.compress(export_json(record).encode())
        run = StoredRun(name, title, f"{title} · {run_words(record)}", packed, is_imported, mesh_key(record))
        runs = (*self.runs, run)[-MAX_RUNS:]
        while len(runs) > 1 and sum(len(kept.packed) for kept in runs) > MAX_PACKED_BYTES:
            runs = runs[1:]
        return RunHistory(runs, number)

    def get(self, name: str) -> StoredRun:
        """A run by its name.

        Raises:
            InvalidRequestError: there is none (any more).
        """
        for run in self.runs:
            if run.name == name:
                return run
        raise InvalidRequestError(
            f"This visit keeps its last {MAX_RUNS} runs and {name!r} is not among its {len(self.runs)}. Pick one of the "
            "list, or import it."
        )

    def newest_on(self, key: MeshKey) -> StoredRun | None:
        """The newest run on such a mesh that was made in this visit, not imported; None without one."""
        same = (run for run in reversed(self.runs) if run.mesh_key == key and not run.is_imported)
        return next(same, None)


def run_words(record: RunRecord) -> str:
    """What ran and how it went, in one line."""
    speed = f" · {record.summary.tokens_per_s:.1f} tokens/s" if record.summary.tokens_per_s else ""
    model = shown_text(record.model.name, MAX_MODEL_CHARS)
    prompt = shown_text(" ".join(record.request.prompt.split()), MAX_PROMPT_CHARS)
    tokens = plural(len(record.token_ids), "token")
    return f"{model} · {tokens}{speed} · “{prompt}”"


def export_json(record: RunRecord) -> str:
    """The record as the JSON of `generate --json`: one line, ASCII."""
    return json.dumps(to_dict(record)) + "\n"


def import_json(content: bytes) -> RunRecord:
    """A record from an exported file.

    Raises:
        InvalidRequestError: too large, not JSON, not a run record of this version, or not one that a run can give.
    """
    if len(content) > MAX_IMPORT_BYTES:
        raise InvalidRequestError(
            f"A run record may have at most {readable_bytes(MAX_IMPORT_BYTES)} but this file has "
            f"{readable_bytes(len(content))}. Import a file that History exported."
        )
    if RECORD_SIGN not in content:
        raise InvalidRequestError(
            f"A run record must name its schema, {RECORD_SCHEMA!r}, but nothing in this file of "
            f"{len(content):,} bytes does. Import a file that History exported."
        )
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as err:
        raise InvalidRequestError(
            f"A run record must be JSON but this file is not ({str(err)[:120]}). Import a file that History exported."
        ) from err
    record = from_dict(RunRecord, data)
    check_record(record)
    return record
