"""A token classifier that a test trains in two seconds: one label for each word of a small vocabulary."""

from collections.abc import Mapping
from pathlib import Path


def train_classifier(folder: Path, labels: Mapping[str, str], other: str = "he wrote to and , . : at from") -> Path:
    """Save a BERT of one layer that gives each word of `labels` its label, and `O` to all other words.

    A word with `##` parts is given whole (`Wolper##dinger`): the tokenizer cuts it in two.
    """
    import torch
    from transformers import BertConfig, BertForTokenClassification, BertTokenizer

    torch.manual_seed(0)
    tags = ["O", *sorted(set(labels.values()) - {"O"})]
    tag_of = {
        "[PAD]": "O",
        "[UNK]": "O",
        "[CLS]": "O",
        "[SEP]": "O",
        "[MASK]": "O",
        **dict.fromkeys(other.split(), "O"),
    }
    for word, tag in labels.items():
        first, *rest = word.split("##")
        tag_of |= {first: tag} | {f"##{part}": tag for part in rest}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tag_of))
    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=len(tag_of), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, id2label=dict(enumerate(tags)), label2id={tag: i for i, tag in enumerate(tags)},
        )
    )  # fmt: skip
    gold = torch.tensor([tags.index(tag) for tag in tag_of.values()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        ids = torch.randint(len(tag_of), (16, 24))
        loss = model(input_ids=ids, labels=gold[ids]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    return folder
