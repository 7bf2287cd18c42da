"""A token classifier for names, places and organisations, trained in about a minute on sentences from templates.

It stands for the PII models that users bring: a second engine that has learnt other things than the spaCy pipeline.
Nothing of an evaluation set goes into it: names are put together from syllables and this package's given names, and
what names no one is Python's own manual, which the standard library holds.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from ftlib.text.pii.given_names import COMMON

TAGS = ("O", "B-private_person", "I-private_person", "B-city", "I-city", "B-company_name", "I-company_name")
_BEGIN = "Ka Lo Mi Ne Ru Sa Ti Vo Ber Dor Fel Gar Hol Jen Kir Lam Mor Nor Pel Quin Ros Sten Thor Ul".split()  # noqa: SIM905
_END = "ban den fil gor hum ke lin mann nova ord pel ric sen ski son ton ura vers well wick yer zak ez ini".split()  # noqa: SIM905
_TOWN = ["ville", "burg", "ton", "ford", " Springs", "stadt", " Falls", "dale", "port", " City"]
_FIRM = ["Inc", "LLC", "Group", "Systems", "Bank", "Labs", "Partners", "Logistics", "GmbH", "Ltd"]
_TEMPLATES = """
{P} wrote to us yesterday about the invoice .|My name is {P} and I live in {C} .|Dear {P} , thank you for the call .
please ask {P} from {O} to call back .|The office of {O} in {C} is closed .|I spoke to {P} , who works for {O} .
{P} and {P} moved from {C} to {C} last year .|Mr. {P} could not log in to the portal .|Regards , {P}
Patient {P} was seen by Dr. {P} in {C} .|we have shipped the order to {C} on Monday .|{O} has changed its terms .
The server restarts after each update and the log is empty .|How do I reset my password ?|Thanks a lot for the help !
The new version does not start on my laptop .|Please send the report to the team by Friday .|Ticket : {P} - {C}
Name : {P}|Company : {O}|City : {C}|Contact {P} at the front desk .|Can you refund the second payment ?
{P} said that the meeting with {O} was moved .|I am {P} .|Our manager {P} is on leave until June .
""".replace("\n", "|")


def _word(choose: random.Random) -> str:
    return choose.choice(_BEGIN) + "".join(choose.choice(_END) for _ in range(choose.randint(1, 2)))


def _fill(kind: str, choose: random.Random, given: list[str]) -> tuple[str, list[str]]:
    if kind == "P":
        first = choose.choice(given).title() if choose.random() < 0.7 else _word(choose)
        return "private_person", [first, *([_word(choose)] if choose.random() < 0.7 else [])]
    if kind == "C":
        return "city", (_word(choose) + choose.choice(_TOWN)).split()
    return "company_name", [_word(choose), choose.choice(_FIRM)]


def sentences(num: int, seed: int = 7) -> Iterator[tuple[list[str], list[str]]]:
    """Words of made sentences and the tag of each."""
    choose, given = random.Random(seed), sorted(COMMON)
    templates = [line for line in _TEMPLATES.split("|") if line.strip()]
    for _ in range(num):
        words: list[str] = []
        tags: list[str] = []
        for token in choose.choice(templates).split():
            if token[0] != "{":
                words.append(token)
                tags.append("O")
                continue
            label, parts = _fill(token[1], choose, given)
            words += parts
            tags += [f"B-{label}", *[f"I-{label}"] * (len(parts) - 1)]
        yield words, tags


def manual(num: int) -> Iterator[tuple[list[str], list[str]]]:
    """Words of Python's manual, all of them outside of any name."""
    from pydoc_data.topics import topics

    lines = [line.split() for _, text in sorted(topics.items()) for line in text.splitlines()]
    for words in [words[:40] for words in lines if len(words) > 4][:num]:
        yield words, ["O"] * len(words)


def train(folder: Path, num_sentences: int = 3000, num_epochs: int = 2) -> Path:
    """Train and save a BERT of two layers with its tokenizer."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForTokenClassification, BertTokenizer

    torch.manual_seed(7)
    data = [*sentences(num_sentences), *manual(num_sentences)]
    folder.mkdir(parents=True, exist_ok=True)
    pieces = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    pieces.train_from_iterator((" ".join(words) for words, _ in data), vocab_size=6000, min_frequency=2)
    pieces.save_model(str(folder))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    tokenizer.save_pretrained(folder)
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=96, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=192, max_position_embeddings=512, id2label=dict(enumerate(TAGS)),
            label2id={tag: i for i, tag in enumerate(TAGS)},
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(num_epochs):
        random.Random(epoch).shuffle(data)
        for start in range(0, len(data), 32):
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
