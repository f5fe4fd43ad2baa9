"""The tables as files: parquet, or csv for people and spreadsheets."""

import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import structlog
from pandas.api.types import is_string_dtype
from pyarrow import parquet

from feed.dataset import columns
from feed.dataset.schema import INTERACTIONS, ITEMS, OBJECTS, REQUIRED, USERS, Dataset, as_objects, python_values
from feed.errors import BadData
from feed.events import utc
from feed.settings import FUTURE_SECONDS
from feed.wire import LARGEST_MESSAGE

log = structlog.get_logger()

Format = Literal["parquet", "csv"]
TABLES = {"users": USERS, "items": ITEMS, "interactions": INTERACTIONS}
FORMATS = ("parquet", "csv")
REMEDIES = {
    ".csv": "UTF-8 is needed, a comma between fields, quotes around a field that holds a comma, a quote or a line break (and "
    "two quotes for each that it holds)",
    ".parquet": "write it anew",
}
LATEST = datetime.max.replace(tzinfo=UTC).timestamp()
AT_ONCE = 50_000  # rows of a csv file that are in memory as Python objects
WHOLE = {
    pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(), pa.uint32(): pd.UInt32Dtype(), pa.uint64(): pd.UInt64Dtype(),
}  # fmt: skip
NOBODY = pd.DataFrame({"user_id": pd.Series(dtype="str")})  # of whom anything is known
WORLD_FILE = "world.json"  # beside the tables of a simulated world: says which one it is, so that it can be found again


def read(path: Path, context: Sequence[str] = (), future_seconds: float = FUTURE_SECONDS) -> Dataset:
    """The dataset in the folder `path`; `context` names further columns of the interactions to keep.

    A folder without `users` has an empty table of them: users are then those whom the interactions name. Raises `BadData` when
    a file is missing, there in both formats, unreadable, or holds what the format does not allow, and for an event that is
    further ahead of the wall clock than `future_seconds`: "now" would be its time.
    """
    if not path.is_dir():
        raise BadData(
            f"{path}: no such folder; it should hold items, interactions and, if known, users, each as .parquet or .csv"
        )
    found = {name: _file(path, name) for name in TABLES}
    frames = {name: _frame(file, context) if file else NOBODY for name, file in found.items()}
    try:
        dataset = Dataset(**frames, context=tuple(context))
        _not_in_the_future(frames["interactions"], dataset, time.time() + future_seconds)
    except BadData as error:
        raise BadData(f"{path}: {error}") from error
    if ignored := [c for c in frames["interactions"] if c not in INTERACTIONS and c not in context]:
        log.info("further columns of the interactions are ignored; name them as context to keep them", columns=ignored)
    if found["users"] is None:
        log.info(
            "no table of users: they are those whom the interactions name", users=dataset.interactions["user_id"].nunique()
        )
    else:
        _notice_unknown(dataset.interactions["user_id"], dataset.users["user_id"], "their profile is empty")
    _notice_unknown(dataset.interactions["item_id"], dataset.items["item_id"], "they are counted, but never ranked")
    return dataset


def write(dataset: Dataset, path: Path, format: Format = "parquet") -> None:
    """Write the three tables into the folder `path`, made if it is not there; they replace those of the same format, and
    `WORLD_FILE` goes with what it described.

    Raises `BadData` for a folder that holds tables in another format.
    """
    path.mkdir(parents=True, exist_ok=True)
    if others := [
        f"{name}.{other}" for other in FORMATS if other != format for name in TABLES if (path / f"{name}.{other}").exists()
    ]:
        raise BadData(
            f"{path} holds {', '.join(others)}, and a folder has one format: move them away, or choose another folder"
        )
    (path / WORLD_FILE).unlink(missing_ok=True)
    for name in TABLES:
        frame: pd.DataFrame = getattr(dataset, name)
        file = path / f"{name}.{format}"
        if format == "parquet":
            parquet.write_table(_arrow(frame, name), file)
        else:
            _to_csv(name, frame, file)


def _not_in_the_future(given: pd.DataFrame, dataset: Dataset, until: float) -> None:
    if until < LATEST:
        columns.Where("interactions", "occurred_at").refuse(
            given["occurred_at"], dataset.interactions["occurred_at"] > pd.Timestamp(utc(until)),
            "is in the future: correct it or this machine's clock, or set FEED_FUTURE_SECONDS; without an offset a time is UTC",
        )  # fmt: skip


def _notice_unknown(used: pd.Series, described: pd.Series, outcome: str) -> None:
    unknown = used[~used.isin(described)]
    if len(unknown):
        log.warning(
            f"the interactions name {used.name}s that no table describes: {outcome}",
            ids=unknown.nunique(), rows=len(unknown), first=unknown.iloc[0],
        )  # fmt: skip


def _file(path: Path, name: str) -> Path | None:
    """The table's file; None where there is none of users, which may be left out."""
    there = [file for suffix in FORMATS if (file := path / f"{name}.{suffix}").is_file()]
    if len(there) > 1:
        raise BadData(f"{path} holds both {there[0].name} and {there[1].name}: remove the one that is not meant")
    if not there and name != "users":
        raise BadData(f"{path} holds neither {name}.parquet nor {name}.csv")
    return there[0] if there else None


def _frame(file: Path, context: Sequence[str]) -> pd.DataFrame:
    try:
        return _from_csv(file, context) if file.suffix == ".csv" else _from_parquet(file)
    except UnicodeDecodeError as error:
        raise _unreadable(file, _first_line_not_utf8(file), str(error)) from error
    except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
        raise BadData(f"{file}: not a readable {file.suffix[1:]} file: {error}; {REMEDIES[file.suffix]}") from error


def _from_parquet(file: Path) -> pd.DataFrame:
    """Whole numbers with missing values stay whole numbers; an index that pandas has saved is a column, if it has a name."""
    table = parquet.ParquetFile(file).read().replace_schema_metadata()
    for name in table.column_names:
        if table.column_names.count(name) > 1:
            raise BadData(f"{file}: column {name!r} is there twice: keep one, or give them different names")
    table = table.drop_columns([name for name in table.column_names if name.startswith("__index_level_")])
    return table.to_pandas(types_mapper=WHOLE.get)  # type: ignore[no-any-return]


def _from_csv(file: Path, context: Sequence[str]) -> pd.DataFrame:
    """All columns as text, nothing but an empty field missing; further columns then take the type that all of them read as."""
    known = TABLES[file.stem]
    with file.open("rb") as opened:
        if opened.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise BadData(f"{file}: it is in UTF-16: save it as csv in UTF-8")
    with file.open(encoding="utf-8-sig", newline="") as lines, _long_fields():
        rows = _records(file, csv.reader(lines, strict=True))
        header = next(rows, [])
        _require_header(file, header)
        chunks = _chunks(file, pa.schema([(name, pa.string()) for name in header]), rows)
        table = pa.concat_tables(list(chunks)).to_pandas()
    wanted = [name for name in header if name not in known and (file.stem != "interactions" or name in context)]
    for name in wanted:
        table[name] = columns.inferred(columns.Where(f"{file}: {file.stem}", name), table[name])
    return table  # type: ignore[no-any-return]


def _first_line_not_utf8(file: Path) -> int:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _records(file: Path, reader: Any) -> Iterator[list[str]]:
    """The first line of a csv file and its rows, as fields; further empty lines are passed over.

    Raises `BadData` that names the line for one that breaks the rules of quotes, and for one with too few or too many fields.
    """
    width = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = "a quote opens a field and none closes it" if "end of data" in str(error) else str(error)
            if "field limit" in str(error):
                what = (
                    f"a field has more than {LARGEST_MESSAGE:,} characters, maybe because a quote opens it and none closes it"
                )
            raise _unreadable(file, line, what) from error
        width = len(row) if width is None else width
        if row and len(row) != width:
            what = f"{len(row)} fields, where the first line names {width} columns: {_short(row)}"
            raise _unreadable(file, line, what)
        if row or line == 1:
            yield row


def _unreadable(file: Path, line: int, why: str) -> BadData:
    return BadData(f"{file}: not a readable csv file: line {line}: {why}; {REMEDIES['.csv']}")


def _require_header(file: Path, header: Sequence[str]) -> None:
    if not any(name.strip() for name in header):
        raise BadData(f"{file}: the first line is empty; it names the columns, {', '.join(REQUIRED[file.stem])} at least")
    if any("\0" in name for name in header) and not set(REQUIRED[file.stem]) <= set(header):
        raise BadData(f"{file}: the names of the columns hold zero bytes, as UTF-16 does: save it as csv in UTF-8")
    if len(header) == 1 and (other := next((mark for mark in (";", "\t", "|") if mark in header[0]), None)):
        raise BadData(f"{file}: the columns are separated by {other!r}: write it anew with commas")
    if repeated := [name for name in header if header.count(name) > 1 and name.strip()]:
        raise BadData(f"{file}: column {repeated[0]!r} is there twice")


def _chunks(file: Path, schema: pa.Schema, rows: Iterator[list[str]]) -> Iterator[pa.Table]:
    """The rows as text, empty fields missing."""
    yield schema.empty_table()
    done = 0
    while read := list(islice(rows, AT_ONCE)):
        _notice_swallowed(file, read, done)
        done += len(read)
        fields = zip(*read, strict=True)
        yield pa.table([pa.array([field or None for field in column], pa.string()) for column in fields], schema=schema)


def _notice_swallowed(file: Path, rows: Sequence[Sequence[str]], before: int) -> None:
    """Two lone quotes make one field of the rows between them; only the number of commas tells them from a text of lines."""
    for number, row in enumerate(rows, before + 1):
        for field in row:
            if (breaks := field.count("\n")) and len(row) > 1 and field.count(",") == breaks * (len(row) - 1):
                log.warning(
                    "a field in quotes holds line breaks and what looks like whole rows: is a quote missing?",
                    file=str(file), row=number, begins=field[:40],
                )  # fmt: skip
                return


def _short(row: Sequence[str]) -> str:
    shown = repr(row)
    return shown if len(shown) <= 120 else f"{shown[:120]}…"


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module takes fields of 128 KiB unless it is told otherwise; JSON of attributes can be longer."""
    before = csv.field_size_limit(LARGEST_MESSAGE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _arrow(frame: pd.DataFrame, name: str) -> pa.Table:
    """Without pandas' own metadata, and with an item's tags as a list of text whatever the rows hold."""
    lists = ("tags",) if name == "items" else ()
    arrays = {
        column: pa.array(frame[column], type=pa.list_(pa.string()) if column in lists else None, from_pandas=True)
        for column in frame.columns
    }
    return pa.table(arrays)


def _to_csv(name: str, frame: pd.DataFrame, file: Path) -> None:
    """Further columns of text that would be read as numbers are written as JSON, which keeps them text."""
    further = [column for column in map(str, frame) if column not in TABLES[name] and is_string_dtype(frame[column])]
    as_numbers = [column for column in further if columns.reading(frame[column].dropna()) != "text"]
    frame = as_objects(frame, as_numbers, OBJECTS[name])
    values = [[_field(value) for value in python_values(frame[column])] for column in frame]
    # Python's writer, before 3.13, leaves a lone carriage return unquoted otherwise
    quoting: Literal[0, 1] = csv.QUOTE_ALL if any("\r" in field for column in values for field in column) else csv.QUOTE_MINIMAL
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n", quoting=quoting)
        writer.writerow(frame.columns)
        writer.writerows(zip(*values, strict=True))


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return columns.joined_tags(value)
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
