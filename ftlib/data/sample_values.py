"""False personal values for the sample tickets, made by Faker from a seed."""

import random
import string
from collections.abc import Callable

_LOCALES = ("en_US", "en_US", "en_GB", "en_AU")


class Values:
    """Makes values of each kind; what it makes depends on its seed and the calls before alone."""

    def __init__(self, seed: int) -> None:
        from faker import Faker

        self.fakers = [Faker(locale) for locale in _LOCALES]
        for number, faker in enumerate(self.fakers):
            faker.seed_instance(seed + number)

    def make(self, kind: str, rng: random.Random) -> str:
        """A value of a kind."""
        return VALUE_MAKERS[kind](self, rng)


def _digits(rng: random.Random, count: int) -> str:
    return str(rng.randint(1, 9)) + "".join(rng.choices(string.digits, k=count - 1))


def _person(values: Values, rng: random.Random) -> str:
    faker = rng.choice(values.fakers)
    return f"{faker.first_name()} {faker.last_name()}"


def _phone(values: Values, rng: random.Random) -> str:
    area, exchange, line = rng.randint(201, 989), rng.randint(201, 989), rng.randint(0, 9999)
    return rng.choice(("({}) {}-{:04d}", "{}-{}-{:04d}", "+1 {} {} {:04d}", "+1-{}-{}-{:04d}", "{}.{}.{:04d}")).format(
        area, exchange, line
    )


def _card(values: Values, rng: random.Random) -> str:
    number = values.fakers[0].credit_card_number(card_type=rng.choice(("visa16", "mastercard", "discover")))
    separator = rng.choice(("", " ", "-"))
    return separator.join(number[i : i + 4] for i in range(0, 16, 4))


def _iban(values: Values, rng: random.Random) -> str:
    number: str = values.fakers[2].iban()
    return number if rng.random() < 0.5 else " ".join(number[i : i + 4] for i in range(0, len(number), 4))


def _address(values: Values, rng: random.Random) -> str:
    faker = values.fakers[0]
    street = faker.street_address().replace("\n", " ")
    return street if rng.random() < 0.3 else f"{street}, {faker.city()}, {faker.state_abbr()} {faker.postcode()}"


def _birth(values: Values, rng: random.Random) -> str:
    day = values.fakers[0].date_of_birth(minimum_age=18, maximum_age=88)
    return str(day.strftime(rng.choice(("%Y-%m-%d", "%m/%d/%Y", "%d %B %Y", "%B %d, %Y"))))


def _username(values: Values, rng: random.Random) -> str:
    faker = values.fakers[0]
    return f"{faker.user_name()}{rng.randint(1, 99)}"


def _password(values: Values, rng: random.Random) -> str:
    symbols = "!#$%&*+?@"
    body = rng.choices(string.ascii_letters + string.digits, k=rng.randint(7, 11))
    return "".join([rng.choice(string.ascii_letters), *body, rng.choice(string.digits), rng.choice(symbols)])


def _api_key(values: Values, rng: random.Random) -> str:
    prefix, alphabet, size = rng.choice((
        ("sk_live_", string.ascii_letters + string.digits, 24), ("ghp_", string.ascii_letters + string.digits, 36),
        ("AKIA", string.ascii_uppercase + "234567", 16), ("", string.hexdigits[:16] + "f", 32),
    ))  # fmt: skip
    return prefix + "".join(rng.choices(alphabet, k=size - 1)) + rng.choice("234567")


def _policy(values: Values, rng: random.Random) -> str:
    letters = "".join(rng.choices(string.ascii_uppercase, k=3))
    return rng.choice((f"{letters}-{_digits(rng, 7)}", f"{letters}{_digits(rng, 8)}", _digits(rng, 10)))


def _plate(values: Values, rng: random.Random) -> str:
    letters = "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=3))
    return rng.choice(
        (
            f"{letters}-{_digits(rng, 4)}",
            f"{letters} {_digits(rng, 4)}",
            f"{rng.randint(1, 9)}{letters}{_digits(rng, 3)}",
        )
    )


VALUE_MAKERS: dict[str, Callable[[Values, random.Random], str]] = {
    "PERSON": _person,
    "EMAIL_ADDRESS": lambda values, rng: str(rng.choice(values.fakers).email()),
    "PHONE_NUMBER": _phone,
    "US_SSN": lambda values, rng: str(values.fakers[0].ssn()),
    "CREDIT_CARD": _card,
    "IBAN_CODE": _iban,
    "IP_ADDRESS": lambda values, rng: str(values.fakers[0].ipv6() if rng.random() < 0.2 else values.fakers[0].ipv4()),
    "STREET_ADDRESS": _address,
    "DATE_OF_BIRTH": _birth,
    "ACCOUNT_NUMBER": lambda values, rng: rng.choice(
        (_digits(rng, 8), _digits(rng, 10), f"{_digits(rng, 4)}-{_digits(rng, 6)}")
    ),
    "INSURANCE_ID": _policy,
    "USERNAME": _username,
    "PASSWORD": _password,
    "API_KEY": _api_key,
    "URL": lambda values, rng: f"https://{values.fakers[0].domain_name()}/users/{_digits(rng, 5)}",
    "LICENSE_PLATE": _plate,
}
