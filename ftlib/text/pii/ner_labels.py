"""What the labels of NER models mean: a model's own label → an entity type of this package.

In: a model's labels and `pii.ner_labels`. Out: a `LabelMap`. Labels are compared without case, separators and the
position prefix of a tagging scheme, so that `B-GIVENNAME`, `given_name` and `given name` are one. Known are the labels
of OpenAI's privacy-filter, of NVIDIA's GLiNER-PII (the 55 of Nemotron-PII), of Piiranha and ai4privacy, of i2b2, and
of CoNLL and OntoNotes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NONE = "none"
"""In `pii.ner_labels`: this label is left out on purpose."""
_OUTSIDE = "O"
_PREFIX = re.compile(r"^[BIESLUM][-_](?=\w)")
_BY_ENTITY = {
    "PERSON": "per person private_person name first_name given_name last_name surname middle_name full_name"
    " family_name person_name patient doctor staff account_name",
    "LOCATION": "loc location gpe fac city town state province county country region place location_name",
    "STREET_ADDRESS": "private_address address full_address street street_address building_num building_number"
    " secondary_address location_address",
    "ZIP_CODE": "zip zip_code zipcode postcode postal_code",
    "COORDINATES": "coordinate coordinates nearby_gps_coordinate gps_coordinates",
    "ORGANIZATION": "org organization organisation company company_name organization_name hospital patorg institution",
    "EMAIL_ADDRESS": "private_email email email_address",
    "PHONE_NUMBER": "private_phone phone phone_number telephone telephone_num telephone_number mobile_phone_number"
    " landline_phone_number fax fax_number",
    "URL": "private_url url website",
    "IP_ADDRESS": "ip ip_address ipv4 ipv6",
    "MAC_ADDRESS": "mac mac_address",
    "DATE_TIME": "private_date date_time",
    "DATE_OF_BIRTH": "date_of_birth dob birth_date birthday",
    "AGE": "age",
    "US_SSN": "ssn us_ssn social_num social_security_number",
    "MEDICAL_RECORD_NUMBER": "mrn medical_record medical_record_number",
    "INSURANCE_ID": "health_plan_beneficiary_number health_plan health_insurance_id_number health_insurance_number"
    " insurance_number",
    "ACCOUNT_NUMBER": "account_number account_num bank_account_number bank_routing_number routing_number swift_bic bic"
    " masked_number",
    "IBAN_CODE": "iban iban_code",
    "CREDIT_CARD": "credit_debit_card credit_card credit_card_number card_number cvv credit_card_cvv",
    "CRYPTO": "crypto bitcoin_address ethereum_address litecoin_address",
    "DRIVER_LICENSE": "driver_license driver_license_num drivers_license_number driver_license_number",
    "MEDICAL_LICENSE": "certificate_license_number medical_license",
    "LICENSE_PLATE": "license_plate vehicle_vrm license_plate_number",
    "VIN": "vehicle_identifier vehicle_vin vin",
    "DEVICE_ID": "device_identifier device device_id phone_imei imei serial_number",
    "BIOMETRIC_ID": "biometric_identifier bio_id",
    "PASSPORT": "passport passport_number passport_num",
    "NATIONAL_ID": "national_id national_id_number id_card_num id_card_number identity_card_number cpf",
    "TAX_ID": "tax_id tax_num tax_identification_number cnpj",
    "USERNAME": "user_name username login",
    "PASSWORD": "password pin",
    "API_KEY": "secret api_key http_cookie access_token",
    "EMPLOYEE_ID": "employee_id",
    "ID_NUMBER": "id customer_id unique_id student_id_number registration_number",
}
_KNOWN = {name.replace("_", ""): entity for entity, names in _BY_ENTITY.items() for name in names.split()}
# Of CoNLL and OntoNotes: nothing personal, or what rules find more exactly. No word is lost about them.
_GENERAL = frozenset(
    """
    misc cardinal ordinal quantity percent money time date event workofart law language product norp
    """.split()  # noqa: SIM905
)
# What a GLiNER model is asked for where nobody says: it finds what it is asked for, and has no labels of its own.
GLINER_LABELS = (
    "person", "organization", "location", "street address", "email address", "phone number", "username", "password",
    "date of birth", "passport number", "national id number", "social security number", "driver license number",
    "tax identification number", "medical record number", "health insurance number", "bank account number",
    "credit card number", "iban", "license plate number", "ip address", "api key",
)  # fmt: skip
NEMOTRON_LABELS = (
    "account_number", "age", "api_key", "bank_routing_number", "biometric_identifier", "certificate_license_number",
    "city", "company_name", "coordinate", "country", "county", "credit_debit_card", "customer_id", "cvv",
    "date_of_birth", "device_identifier", "email", "employee_id", "fax_number", "first_name",
    "health_plan_beneficiary_number", "http_cookie", "ipv4", "ipv6", "last_name", "license_plate", "mac_address",
    "medical_record_number", "national_id", "password", "phone_number", "pin", "postcode", "ssn", "state",
    "street_address", "swift_bic", "tax_id", "unique_id", "url", "user_name", "vehicle_identifier",
)  # fmt: skip
_NVIDIA = re.compile(r"nvidia|nemotron", re.IGNORECASE)


@dataclass(frozen=True)
class LabelMap:
    """The labels of one model."""

    entities: Mapping[str, str]
    """Model label → entity type; labels that are not here are not findings."""
    unmapped: tuple[str, ...]
    """Labels, without prefix, of which nobody has said what they are."""

    @property
    def names(self) -> frozenset[str]:
        """The entity types that the model can find."""
        return frozenset(self.entities.values())


def plain(label: str) -> str:
    """A label without the position prefix of BIO, BILOU or BIOES: `B-PER` → `PER`."""
    return _PREFIX.sub("", label)


def map_labels(labels: Iterable[str], own: Mapping[str, str]) -> LabelMap:
    """Map a model's labels.

    Args:
        labels: The model's, with or without prefixes.
        own: `pii.ner_labels`: what the user says of labels, before the maps that are built in.
    """
    chosen = {_folded(label): entity for label, entity in own.items()}
    entities: dict[str, str] = {}
    unmapped: set[str] = set()
    for label in labels:
        name = _folded(label)
        if label == _OUTSIDE or not name:
            continue
        entity = chosen.get(name) or _KNOWN.get(name)
        if entity is None and name not in _GENERAL:
            unmapped.add(plain(label))
        elif entity is not None and entity != NONE:
            entities[label] = entity
    return LabelMap(entities, tuple(sorted(unmapped)))


def gliner_labels(model: str, own: Mapping[str, str]) -> dict[str, str]:
    """What a GLiNER model is asked for, and the entity type of each: the built-in list for it, and the user's own."""
    asked = NEMOTRON_LABELS if _NVIDIA.search(model) else GLINER_LABELS
    known = {_folded(label) for label in asked}
    further = [label for label in own if _folded(label) not in known]
    return dict(map_labels([*asked, *further], own).entities)


def _folded(label: str) -> str:
    return re.sub(r"[\W_]+", "", plain(label)).lower()
