"""The tables as files: parquet, or csv for people and spreadsheets."""

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import structlog
from pandas.api.types import is_string_dtype
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from feed.dataset import columns
from feed.dataset.schema import INTERACTIONS, ITEMS, REQUIRED, USERS, Dataset
from feed.errors import BadData
from feed.settings import FUTURE_SECONDS

log = structlog.get_logger()

Format = Literal["parquet", "csv"]
TABLES = {"users": USERS, "items": ITEMS, "interactions": INTERACTIONS}
FORMATS = ("parquet", "csv")
REMEDIES = {
    ".csv": "UTF-8 is needed, a comma between fields, quotes around a field that holds a comma, a quote or a line break",
    ".parquet": "write it anew",
}
WORLD_FILE = "world.json"  # beside the tables of a simulated world: says which one it is, so that it can be found again


def read(path: Path, context: Sequence[str] = (), future_seconds: float = FUTURE_SECONDS) -> Dataset:
    """The dataset in the folder `path`; `context` names further columns of the interactions to keep.

    Raises `BadData` when a file is missing, there in both formats, unreadable, or holds what the format does not allow, and
    for an event that is further ahead of the wall clock than `future_seconds`: "now" would be its time.
    """
    if not path.is_dir():
        raise BadData(f"{path}: no such folder; it should hold users, items and interactions, each as .parquet or .csv")
    frames = {name: _frame(_file(path, name)) for name in TABLES}
    try:
        dataset = Dataset(**frames, context=tuple(context))
        _not_in_the_future(frames["interactions"], dataset, time.time() + future_seconds)
    except BadData as error:
        raise BadData(f"{path}: {error}") from error
    if ignored := [c for c in frames["interactions"] if c not in INTERACTIONS and c not in context]:
        log.info("further columns of the interactions are ignored; name them as context to keep them", columns=ignored)
    _notice_unknown(dataset.interactions["user_id"], dataset.users["user_id"], "their profile is empty")
    _notice_unknown(dataset.interactions["item_id"], dataset.items["item_id"], "they are counted, but never ranked")
    return dataset


def write(dataset: Dataset, path: Path, format: Format = "parquet") -> None:
    """Write the three tables into the folder `path`, made if it is not there; they replace those of the same format, and
    `WORLD_FILE` goes with what it described.

    Raises `BadData` for a tag that csv cannot hold, and for a folder that holds tables in another format.
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
            parquet.write_table(_arrow(frame), file)
        else:
            _to_csv(frame, file)


def _not_in_the_future(given: pd.DataFrame, dataset: Dataset, until: float) -> None:
    times = dataset.interactions["occurred_at"]
    columns.Where("interactions", "occurred_at").refuse(
        given["occurred_at"], times > pd.Timestamp(until, unit="s", tz="UTC"),
        "is in the future: correct it or this machine's clock, or set FEED_FUTURE_SECONDS; without an offset a time is UTC",
    )  # fmt: skip


def _notice_unknown(used: pd.Series, described: pd.Series, outcome: str) -> None:
    unknown = used[~used.isin(described)]
    if len(unknown):
        log.warning(
            f"the interactions name {used.name}s that no table describes: {outcome}",
            ids=unknown.nunique(), rows=len(unknown), first=unknown.iloc[0],
        )  # fmt: skip


def _file(path: Path, name: str) -> Path:
    there = [file for suffix in FORMATS if (file := path / f"{name}.{suffix}").is_file()]
    if len(there) > 1:
        raise BadData(f"{path} holds both {there[0].name} and {there[1].name}: remove the one that is not meant")
    if not there:
        raise BadData(f"{path} holds neither {name}.parquet nor {name}.csv")
    return there[0]


def _frame(file: Path) -> pd.DataFrame:
    try:
        if file.suffix == ".csv":
            return _from_csv(file)
        table = parquet.ParquetFile(file).read()
        # whole numbers with missing values stay whole numbers
        return table.to_pandas(types_mapper=lambda kind: pd.Int64Dtype() if pa.types.is_signed_integer(kind) else None)  # type: ignore[no-any-return]
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, OSError) as error:
        raise BadData(f"{file}: not a readable {file.suffix[1:]} file: {error}; {REMEDIES[file.suffix]}") from error


def _from_csv(file: Path) -> pd.DataFrame:
    """All columns as text, nothing but an empty field missing; further columns then take the type that all of them read as."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(lines), [])
    if not any(header):
        raise BadData(f"{file}: the first line is empty; it names the columns, {', '.join(REQUIRED[file.stem])} at least")
    if len(header) == 1 and (other := next((mark for mark in (";", "\t", "|") if mark in header[0]), None)):
        raise BadData(f"{file}: the columns are separated by {other!r}: write it anew with commas")
    if repeated := [name for name in header if header.count(name) > 1]:
        raise BadData(f"{file}: column {repeated[0]!r} is there twice")
    table = arrow_csv.read_csv(
        file,
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    )
    frame = table.to_pandas()
    return frame.apply(lambda column: column if column.name in TABLES[file.stem] else columns.inferred(column))  # type: ignore[no-any-return]


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """Without pandas' own metadata, and with tags as a list of text whatever the rows hold."""
    arrays = {
        name: pa.array(frame[name], type=pa.list_(pa.string()) if name == "tags" else None, from_pandas=True)
        for name in frame.columns
    }
    return pa.table(arrays)


def _to_csv(frame: pd.DataFrame, file: Path) -> None:
    frame = frame.copy()
    quoting: Literal[0, 2] = csv.QUOTE_MINIMAL
    for name in frame.columns:
        if name == "tags":
            tags = frame[name].map(lambda value: "" if value is None else "|".join(value))
            split = frame[name].map(lambda value: value is not None and any("|" in tag for tag in value))
            columns.Where("items", "tags").refuse(frame[name], split, "holds a | in a tag, which csv cannot: write parquet")
            frame[name] = tags
        elif isinstance(frame[name].dtype, pd.DatetimeTZDtype):
            frame[name] = frame[name].map(lambda at: at.isoformat().replace("+00:00", "Z"), na_action="ignore")
        if is_string_dtype(frame[name]) and frame[name].str.contains("\r").any():
            quoting = csv.QUOTE_NONNUMERIC  # Python's writer, before 3.13, leaves a lone carriage return unquoted otherwise
    frame.to_csv(file, index=False, lineterminator="\n", quoting=quoting)
