"""Names of countries and US states, as alternatives of a regular expression, longest first.

Countries come from the phonenumbers library's regional data (CLDR), so that no list has to be kept here.
"""

import re
from functools import lru_cache

_STATES = {
    "AL": "Alabama", "AK": "Alaska", "AZ": "Arizona", "AR": "Arkansas", "CA": "California", "CO": "Colorado",
    "CT": "Connecticut", "DE": "Delaware", "FL": "Florida", "GA": "Georgia", "HI": "Hawaii", "ID": "Idaho",
    "IL": "Illinois", "IN": "Indiana", "IA": "Iowa", "KS": "Kansas", "KY": "Kentucky", "LA": "Louisiana",
    "ME": "Maine", "MD": "Maryland", "MA": "Massachusetts", "MI": "Michigan", "MN": "Minnesota", "MS": "Mississippi",
    "MO": "Missouri", "MT": "Montana", "NE": "Nebraska", "NV": "Nevada", "NH": "New Hampshire", "NJ": "New Jersey",
    "NM": "New Mexico", "NY": "New York", "NC": "North Carolina", "ND": "North Dakota", "OH": "Ohio", "OK": "Oklahoma",
    "OR": "Oregon", "PA": "Pennsylvania", "RI": "Rhode Island", "SC": "South Carolina", "SD": "South Dakota",
    "TN": "Tennessee", "TX": "Texas", "UT": "Utah", "VT": "Vermont", "VA": "Virginia", "WA": "Washington",
    "WV": "West Virginia", "WI": "Wisconsin", "WY": "Wyoming", "DC": "District of Columbia", "PR": "Puerto Rico",
    "AB": "Alberta", "BC": "British Columbia", "MB": "Manitoba", "NB": "New Brunswick", "NS": "Nova Scotia",
    "ON": "Ontario", "QC": "Quebec", "SK": "Saskatchewan", "GU": "Guam", "VI": "Virgin Islands",
    "AS": "American Samoa", "MP": "Northern Mariana Islands", "FM": "Micronesia", "MH": "Marshall Islands",
    "PW": "Palau", "AA": "Armed Forces Americas", "AE": "Armed Forces Europe", "AP": "Armed Forces Pacific",
}  # fmt: skip
_SHORT = ("USA", "U.S.A.", "U.S.", "UK", "U.K.", "England", "Scotland", "Wales", "Northern Ireland", "Russia",
          "Czech Republic", "Ivory Coast", "Macedonia", "Congo", "South Korea", "North Korea", "Burma", "Holland",
          "Bosnia", "Swaziland", "Cape Verde", "East Timor", "Vatican")  # fmt: skip


@lru_cache(maxsize=1)
def country_names() -> tuple[str, ...]:
    """English names of the world's countries."""
    from phonenumbers.geodata.locale import LOCALE_DATA

    names = set(_SHORT)
    for entry in LOCALE_DATA.values():
        name = entry.get("en", "*en")
        # `*xx` stands for "as in language xx".
        name = entry.get(name[1:], "") if name.startswith("*") else name
        if name and not name.startswith("*"):
            names.add(name)
    return tuple(sorted(names, key=lambda name: (-len(name), name)))


def _alternatives(names: tuple[str, ...]) -> str:
    """An alternation by the first letters of names: 270 of them tried one by one cost five times as much."""
    by_head: dict[str, list[str]] = {}
    for name in names:
        by_head.setdefault(name[:2], []).append(re.escape(name[2:]).replace(r"\ ", r"\s+"))
    return "|".join(f"{re.escape(head)}(?:{'|'.join(tails)})" for head, tails in sorted(by_head.items()))


COUNTRIES = _alternatives(country_names())
STATE_CODES = "|".join(sorted(_STATES))
STATE_NAMES = _alternatives(tuple(sorted(_STATES.values(), key=lambda name: (-len(name), name))))
