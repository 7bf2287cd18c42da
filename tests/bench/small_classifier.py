"""A token classifier for names, streets, places and organisations, trained in about a minute on sentences of templates.

It stands for the PII models that users bring: a second engine that has learnt other things than the spaCy pipeline.
Nothing of an evaluation set goes into it. Names, streets and firms are Faker's, of many countries, and words made of
syllables; what names no one is Python's own manual and help texts, which every installation holds, and sentences whose
capitals are those of headings, products and menus.
"""

import random
from collections.abc import Iterator
from pathlib import Path

TAGS = (
    "O", "B-private_person", "I-private_person", "B-city", "I-city", "B-company_name", "I-company_name",
    "B-private_address", "I-private_address",
)  # fmt: skip
_LOCALES = [
    "en_US", "en_GB", "en_AU", "en_IN", "de_DE", "fr_FR", "it_IT", "nl_NL", "sv_SE", "da_DK", "fi_FI", "pl_PL", "cs_CZ",
    "es_ES", "pt_BR", "hu_HU", "tr_TR", "no_NO",
]  # fmt: skip
_BEGIN = "Ka Lo Mi Ne Ru Sa Ti Vo Ber Dor Fel Gar Hol Jen Kir Lam Mor Nor Pel Quin Ros Sten Thor Ul".split()  # noqa: SIM905
_END = "ban den fil gor hum ke lin mann nova ord pel ric sen ski son ton ura vers well wick yer zak ez ini".split()  # noqa: SIM905
_TOWN = ["ville", "burg", "ton", "ford", " Springs", "stadt", " Falls", "dale", "port", " City", "", "", ""]
_FIRM = ["Inc", "LLC", "Group", "Systems", "Bank", "Labs", "Partners", "Logistics", "GmbH", "Ltd", "Dynamics",
         "Science", "Health", "Software", "", "", ""]  # fmt: skip
# One sentence a line. {P} a person, {A} a street and number, {C} a city, {O} a firm, {N} a number, {W} a capitalised
# word that names no one.
_TEMPLATES = """
{P} wrote to us yesterday about the invoice .
My name is {P} and I live in {C} .
Dear {P} , thank you for the call .
please ask {P} from {O} to call back .
The office of {O} in {C} is closed .
I spoke to {P} , who works for {O} .
{P} and {P} moved from {C} to {C} last year .
Mr. {P} could not log in to the portal .
Regards , {P}
Patient {P} was seen by Dr. {P} in {C} .
we have shipped the order to {C} on Monday .
{O} has changed its terms .
Ticket : {P} - {C}
Name : {P}
Company : {O}
City : {C}
Contact {P} at the front desk .
{P} said that the meeting with {O} was moved .
I am {P} .
Our manager {P} is on leave until June .
{P} is a very good doctor , you can trust her .
this song by {P} is a fine example .
asked {P} to {P} : are you coming ?
here is the home of {P} : {A} {C}
My address is {A} , {C}
please change it to {A} , {C} {N}
Ship it to {A} {N} {C}
Send the letter to {A} .
the parcel for {P} is at {A} in {C} .
Address : {A}
{P} {A} {C}
He was born in {C} and studied in {C} .
the weather in {C} is bad today .
The road from {C} to {C} is closed .
We meet at {O} , {A} , {C}
{P} , {W} at {O}
{W} — {O} ( {N} )
© {N} {O} . All rights reserved .
From : Dr. {P} , {O}
Provider : {O}
ordered by {P} at {O}
{P} | {W} | {O}
Employer : {O} , {C}
{O} , {O} and {O} are on the list .
I work for {O} since {N} .
You are an assistant for {O} .
the shares of {O} fell by {N} percent .
The {W} restarts after each update and the log is empty .
How do I reset my {W} password ?
Thanks a lot for the help !
The new {W} does not start on my laptop .
Please send the {W} Report to the team by Friday .
Can you refund the second payment ?
Open {W} > {W} > {W} and press {W} .
{W} {W} : {N}
{W} {W}
- {W} {W} is done
{W} and {W} were tested in version {N} .
Diagnosis : {W} {W} , {N} mg daily
Step {N} : Choose {W} from the {W} menu .
Date : {N} {W} : {N}
{W} Number {N} has status {W} .
Your {W} expires on {N} , choose {W} to go on .
"""
_PLAIN = """
Account Settings Invoice Status Report Delivery Premium Support Server Database Manager Engineer Director Analyst Chief
Officer Senior Network Security Billing Refund Order Monday Friday March June Windows Linux Python Docker Word Excel
Phone Email Address Customer Patient Doctor Nurse Department Cardiology Oncology Surgery Radiology Hospital Clinic
Diabetes Hypertension Asthma Metformin Lisinopril Aspirin Ibuprofen Sertraline Chest Head Lung Blood Test Panel Exam
Summary Findings Impression History Medication Allergies Plan Assessment Insurance Claim Policy Passport License Ticket
Error Warning Failed Login Password Token Session Update Version Release Build Pipeline Cluster Cloud Storage Backup
File Edit View Tools Help Options Privacy Profile Dashboard Checkout Cart Payment Card Bank Transfer Balance Tax Notice
Yes No Please Thanks Hello Dear Regards The This That When Where What Why How If But And For With From About After
English German French Spanish European American Christmas Easter President Minister Court Judge Attorney State Federal
""".split()  # noqa: SIM905


def _word(choose: random.Random) -> str:
    return choose.choice(_BEGIN) + "".join(choose.choice(_END) for _ in range(choose.randint(1, 2)))


class _Values:
    """Values for the slots of templates: of the countries' lists, and made of syllables."""

    def __init__(self, choose: random.Random) -> None:
        from faker import Faker

        self._choose = choose
        faker = Faker(_LOCALES)
        faker.seed_instance(7)
        self._people = [faker.name().split() for _ in range(600)]
        self._people += [[faker.first_name()] for _ in range(600)] + [[faker.last_name()] for _ in range(400)]
        self._streets = [faker.street_address().split() for _ in range(600)]
        self._cities = [faker.city().split() for _ in range(600)]
        self._firms = [faker.company().split() for _ in range(600)]

    def __call__(self, kind: str) -> tuple[str, list[str]]:
        choose = self._choose
        made = choose.random() < 0.35
        if kind == "P":
            words = [_word(choose) for _ in range(choose.randint(1, 2))] if made else choose.choice(self._people)
            return "private_person", [word.lower() for word in words] if choose.random() < 0.05 else words
        if kind == "C":
            return "city", (_word(choose) + choose.choice(_TOWN)).split() if made else choose.choice(self._cities)
        if kind == "A":
            street = choose.choice(self._streets)
            return "private_address", [str(choose.randint(1, 99)), *street] if choose.random() < 0.3 else street
        if kind == "O":
            made_up = [_word(choose), *choose.choice(_FIRM).split()]
            return "company_name", made_up if made else choose.choice(self._firms)
        return "", [str(choose.randint(1, 9999)) if kind == "N" else choose.choice(_PLAIN)]


def sentences(num: int, seed: int = 7) -> Iterator[tuple[list[str], list[str]]]:
    """Words of made sentences and the tag of each."""
    choose = random.Random(seed)
    values = _Values(choose)
    templates = [line for line in _TEMPLATES.splitlines() if line.strip()]
    for _ in range(num):
        words: list[str] = []
        tags: list[str] = []
        for token in choose.choice(templates).split():
            label, parts = values(token[1]) if token[0] == "{" else ("", [token])
            words += parts
            tags += [f"B-{label}", *[f"I-{label}"] * (len(parts) - 1)] if label else ["O"] * len(parts)
        yield words, tags


def manual(num: int) -> Iterator[tuple[list[str], list[str]]]:
    """Words of Python's manual and of its modules' help texts, all of them outside of any name."""
    import importlib
    from pydoc_data.topics import topics

    modules = (
        "argparse asyncio collections csv datetime decimal email html http json logging os pathlib random re smtplib"
    )
    helps = []
    for module in map(importlib.import_module, modules.split()):
        texts_of = (getattr(value, "__doc__", None) for value in vars(module).values())
        helps += [text for text in texts_of if isinstance(text, str)]
    texts = [*helps, *(text for _, text in sorted(topics.items()))]
    lines = [words for text in texts for words in map(str.split, text.splitlines()) if len(words) > 3]
    random.Random(7).shuffle(lines)
    for words in lines[:num]:
        yield words[:40], ["O"] * len(words[:40])


def train(folder: Path, num_sentences: int = 4000, num_epochs: int = 2) -> Path:
    """Train and save a BERT of two layers with its tokenizer."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForTokenClassification, BertTokenizer

    torch.manual_seed(7)
    torch.set_num_threads(1)  # more wait for each other on a busy machine, and the model is small
    data = [*sentences(num_sentences), *manual(num_sentences // 2)]
    folder.mkdir(parents=True, exist_ok=True)
    pieces = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    pieces.train_from_iterator((" ".join(words) for words, _ in data), vocab_size=4000, min_frequency=3)
    pieces.save_model(str(folder))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    tokenizer.save_pretrained(folder)
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=128, max_position_embeddings=512, id2label=dict(enumerate(TAGS)),
            label2id={tag: i for i, tag in enumerate(TAGS)},
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(num_epochs):
        random.Random(epoch).shuffle(data)
        # Sentences of a like length together: less padding.
        data.sort(key=lambda item: len(item[0]) // 8)
        starts = list(range(0, len(data), 32))
        random.Random(epoch).shuffle(starts)
        for step, start in enumerate(starts):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - (epoch * len(starts) + step) / (num_epochs * len(starts)))
            batch = data[start : start + 32]
            encoded = tokenizer(
                [words for words, _ in batch], is_split_into_words=True, padding=True, return_tensors="pt"
            )
            gold = [
                [-100 if place is None else TAGS.index(tags[place]) for place in encoded.word_ids(i)]
                for i, (_, tags) in enumerate(batch)
            ]
            loss = model(**encoded, labels=torch.tensor(gold)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder)
    return folder
