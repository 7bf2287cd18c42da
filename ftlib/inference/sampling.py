"""The next token of each row: greedy, or drawn with temperature and nucleus (Holtzman et al., 2020)."""

import hashlib

import torch
from torch import Tensor


def sample(logits: Tensor, temperature: float, top_p: float, seed: int, position: int) -> int:
    """Draw one token.

    Args:
        logits: `[vocabulary]`.
        temperature: 0 takes the likeliest token.
        top_p: only the smallest set of tokens whose probability reaches this.
        seed: of the request.
        position: of the token in the answer. The draw depends on (seed, position) alone, so neither the neighbours in
            the batch nor a restart in mid-answer change it.
    """
    if temperature <= 0:
        return int(logits.argmax())
    probabilities = (logits.double() / temperature).softmax(-1).cpu()
    if top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered.masked_fill(outside, 0.0))
    digest = hashlib.sha256(f"{seed}:{position}".encode()).digest()
    uniform = int.from_bytes(digest[:7], "big") / 2**56 * float(probabilities.sum())
    index = int(torch.searchsorted(probabilities.cumsum(-1), torch.tensor(uniform, dtype=torch.double), right=True))
    return min(index, int(probabilities.nonzero().max()))
