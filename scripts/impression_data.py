"""Impressions to measure on, from public files: `python scripts/impression_data.py SET FILES --output FOLDER`

    movielens RATINGS USERS ITEMS   MovieLens-1M (grouplens.org/datasets/movielens/1m): user, item, rating and pos, or
                                    timestamp; user, gender, age, occupation; item, title, genres
    movielens-ratings (the same)    MovieLens-1M with the rating and each genre as a label, for the task ratings; tested
                                    are the rows of known users, or those of new ones
    hillstrom FILE                  Hillstrom's e-mail campaign (the MineThatData challenge of 2008; in scikit-uplift
                                    as fetch_hillstrom)
    census FILE                     Census-Income (KDD), census-income.data or census-income.test of the UCI repository

Files are Parquet, or text with commas and a header (the census without one, as published). Each set becomes a Parquet
file, MovieLens also one of the events before each user's validation rows, for the encoder; the `peterrec prepare`
commands that fit it are printed.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import duckdb

# Columns of census-income.data, in its order; those of CENSUS_NUMBERS are numbers, the other ones codes and text.
CENSUS = (
    "age class_of_worker industry_code occupation_code education wage_per_hour enrolled_edu_inst marital_status "
    "major_industry major_occupation race hispanic_origin sex union_member reason_unemployed full_part_time "
    "capital_gains capital_losses dividends tax_filer region_prev state_prev household_family_stat household_summary "
    "instance_weight migration_msa migration_reg migration_within live_1yr_ago migration_sunbelt num_persons_worked "
    "parents_present birth_father birth_mother birth_self citizenship own_business veterans_admin veterans_benefits "
    "weeks_worked year income_50k"
)
CENSUS_NUMBERS = {
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends",
    "num_persons_worked",
    "weeks_worked",
}
NO_FIELDS = {"income_50k", "marital_status", "instance_weight"}  # what the labels are made of, and a sampling weight
# As in the published comparisons on this set, which have 211, 396 and 394 thousand rows a domain.
AGE_GROUPS = {"young": (1, 18), "middle": (25,), "old": (35, 45, 50, 56)}
TEST_SHARES = "0.7,0.03,0.27"
RATING_SHARES = "0.72,0.08,0.2"  # a fifth tested; of the rest a tenth to stop by


def movielens(ratings: Path, users: Path, items: Path, output: Path, *, training: float = 0.7) -> list[str]:
    """Writes a row a rating, in each user's order, and the events before the last 1 − `training` of each user."""
    columns = _columns(ratings)
    time = "pos" if "pos" in columns else "timestamp"
    groups = " ".join(f"WHEN age IN ({', '.join(map(str, ages))}) THEN '{name}'" for name, ages in AGE_GROUPS.items())
    # rows at one time keep the order of the file, which is also how `prepare` breaks ties
    query = f"""
        WITH rated AS (SELECT *, row_number() OVER () AS line FROM {_table(ratings)} WHERE {time} IS NOT NULL)
        SELECT r."user", r.item, r.rating, r.{time} AS time, u.gender, u.age, u.occupation, i.genres,
            try_cast(regexp_extract(i.title, '\\((\\d{{4}})\\)\\s*$', 1) AS INTEGER) AS year,
            CASE {groups} END AS age_group,
            row_number() OVER own AS place, count(*) OVER (PARTITION BY r."user") AS total
        FROM rated r JOIN {_table(users)} u USING ("user") JOIN {_table(items)} i USING (item)
        WINDOW own AS (PARTITION BY r."user" ORDER BY r.{time}, r.line)"""
    rows, earlier = output / "movielens.parquet", output / "movielens_earlier.parquet"
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE impressions AS {query}")
        _write(con, 'SELECT * EXCLUDE (place, total) FROM impressions ORDER BY "user", place', rows)
        # of each user's rows `prepare` leaves ⌈share · total⌉ to training
        kept = f"place <= ceil(total * {training} - 1e-9)"
        _write(con, f'SELECT "user", item, time FROM impressions WHERE {kept} ORDER BY "user", place', earlier)
    fields = ["user", "item", "gender", "age", "occupation", "genres:multi", "year"]
    categorical = [name if ":" in name else f"{name}:categorical" for name in fields]
    return [
        *("peterrec", "prepare", str(rows), "--label", "click=rating>=4", "--label", "conversion=rating==5"),
        *_each("--field", categorical),
        *("--domain", "age_group", "--user", "user", "--item", "item", "--time", "time", "--split", "each_user"),
        *("--output", str(output / "movielens")),
    ]


def movielens_ratings(ratings: Path, users: Path, items: Path, output: Path) -> list[list[str]]:
    """Writes a row a rating, each genre a column of 0 and 1; prepared twice: with known and with new users to test."""
    columns = _columns(ratings)
    time = "pos" if "pos" in columns else "timestamp"
    file = output / "movielens_ratings.parquet"
    with duckdb.connect() as con:
        listed = con.sql(f"SELECT DISTINCT unnest(string_split(genres, '|')) AS genre FROM {_table(items)} ORDER BY 1")
        genres = {genre: _label_of(genre) for (genre,) in listed.fetchall() if genre}
        quoted = {genre.replace("'", "''"): label for genre, label in genres.items()}
        told = "".join(
            f", list_contains(string_split(coalesce(i.genres, ''), '|'), '{genre}')::INTEGER AS {label}"
            for genre, label in quoted.items()
        )
        query = f"""
            WITH rated AS (SELECT *, row_number() OVER () AS line FROM {_table(ratings)} WHERE {time} IS NOT NULL)
            SELECT r."user", r.item, r.rating, r.{time} AS time, u.gender, u.age, u.occupation,
                try_cast(regexp_extract(i.title, '\\((\\d{{4}})\\)\\s*$', 1) AS INTEGER) AS year{told}
            FROM rated r JOIN {_table(users)} u USING ("user") JOIN {_table(items)} i USING (item)
            ORDER BY r."user", r.{time}, r.line"""
        _write(con, query, file)
    fields = ["user", "item", "gender", "age", "occupation", "year"]
    words = [
        *_each("--label", ["rating", "liked=rating>=4", *genres.values()]),
        *_each("--field", [f"{name}:categorical" for name in fields]),
        *("--user", "user", "--item", "item", "--time", "time", "--fractions", RATING_SHARES),
    ]
    return [
        ["peterrec", "prepare", str(file), *words, "--split", split, "--output", str(output / name)]
        for split, name in (("rows", "known_users"), ("by_user", "new_users"))
    ]


def _label_of(genre: str) -> str:
    """A genre as the name of a label: film_noir."""
    return "".join(letter for letter in genre.lower().replace("-", "_") if letter.isalnum() or letter == "_")


def hillstrom(file: Path, output: Path) -> list[str]:
    """Writes a row a customer: visit (click), conversion, channel and what was known before the e-mail."""
    clicked = "click" if "click" in _columns(file) else "visit"
    kinds = {"recency": "numeric", "history": "numeric"}
    names = ["recency", "history_segment", "history", "mens", "womens", "zip_code", "newbie", "segment"]
    rows = output / "hillstrom.parquet"
    with duckdb.connect() as con:
        _write(con, f"SELECT {', '.join(names)}, channel, {clicked} AS click, conversion FROM {_table(file)}", rows)
    return [
        *("peterrec", "prepare", str(rows), "--label", "click", "--label", "conversion"),
        *_each("--field", [f"{name}:{kinds.get(name, 'categorical')}" for name in names]),
        *("--domain", "channel", "--split", "rows", "--fractions", TEST_SHARES),
        *("--output", str(output / "hillstrom")),
    ]


def census(file: Path, output: Path) -> list[str]:
    """Writes a row a person: income above 50,000 and never married, of every other column."""
    fields = [name for name in CENSUS.split() if name not in NO_FIELDS]
    published = file.suffix != ".parquet"
    table = _table(file, header=not published, names=CENSUS.split() if published else ())
    # the published file has a blank behind each comma
    read = [name if name in CENSUS_NUMBERS else f"trim({name}::VARCHAR) AS {name}" for name in fields]
    rows = output / "census.parquet"
    with duckdb.connect() as con:
        _write(
            con,
            f"SELECT {', '.join(read)}, (income_50k LIKE '%50000+%')::INTEGER AS income, "
            f"(trim(marital_status) = 'Never married')::INTEGER AS marital FROM {table}",
            rows,
        )
    kinds = [f"{name}:{'numeric' if name in CENSUS_NUMBERS else 'categorical'}" for name in fields]
    return [
        *("peterrec", "prepare", str(rows), "--label", "income", "--label", "marital", *_each("--field", kinds)),
        *("--split", "rows", "--fractions", TEST_SHARES, "--output", str(output / "census")),
    ]


def _table(file: Path, *, header: bool = True, names: Sequence[str] = ()) -> str:
    """A file as a table of DuckDB."""
    quoted = str(file).replace("'", "''")
    if file.suffix == ".parquet":
        return f"read_parquet('{quoted}')"
    listed = f", names = [{', '.join(repr(name) for name in names)}]" if names else ""
    return f"read_csv('{quoted}', header = {header}, delim = ','{listed})"


def _columns(file: Path) -> list[str]:
    with duckdb.connect() as con:
        return con.sql(f"SELECT * FROM {_table(file)} LIMIT 0").columns


def _write(con: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    """The rows of a query as a Parquet file, in their order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    quoted = str(file).replace("'", "''")
    con.execute(f"COPY ({query}) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd)")


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def main() -> None:
    """Writes the tables of one set and prints how they are prepared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("movielens", "movielens-ratings", "hillstrom", "census"))
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="as listed above, in that order")
    parser.add_argument("--output", type=Path, required=True, help="folder of the tables")
    arguments = parser.parse_args()
    wanted = 3 if arguments.set.startswith("movielens") else 1
    if len(arguments.files) != wanted:
        parser.error(f"{arguments.set} takes {wanted} file{'s' * (wanted > 1)}, not {len(arguments.files)}")
    if absent := [file for file in arguments.files if not file.is_file()]:
        parser.error(f"{absent[0]}: there is no such file")
    if arguments.set == "movielens":
        ratings, users, items = arguments.files
        commands = [movielens(ratings, users, items, arguments.output)]
    elif arguments.set == "movielens-ratings":
        ratings, users, items = arguments.files
        commands = movielens_ratings(ratings, users, items, arguments.output)
    elif arguments.set == "hillstrom":
        commands = [hillstrom(arguments.files[0], arguments.output)]
    else:
        commands = [census(arguments.files[0], arguments.output)]
    for command in commands:
        print(shlex.join(command))


if __name__ == "__main__":
    main()
