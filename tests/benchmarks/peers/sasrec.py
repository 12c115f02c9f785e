"""The backbone and its loss as one would write them with torch.nn for a single model. All peers train this module."""

import math

import torch
from problem import Client, Settings
from torch import Tensor, nn
from torch.nn import functional


class SASRec(nn.Module):
    """SASRec (Kang & McAuley, ICDM 2018) with pre-norm blocks and a softmax over all items, or over a step's own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.steps_of_a_client, self.steps_taken = settings.local_steps, 0
        self.items = nn.Embedding(settings.num_items + 1, settings.width)
        self.positions = nn.Embedding(settings.max_length, settings.width)
        self.blocks = nn.ModuleList(Block(settings.width, settings.num_heads) for _ in range(settings.num_blocks))
        self.norm = nn.LayerNorm(settings.width, eps=1e-6)

    def forward(self, items: Tensor) -> Tensor:
        """Representations [B, L, D] of histories [B, L]."""
        x = self.items(items) * math.sqrt(self.items.embedding_dim) + self.positions.weight[: items.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def loss(self, items: Tensor, rows: Tensor, targets: Tensor, candidates: Tensor) -> Tensor:
        """Mean cross-entropy of the predicting positions, among the candidates of the client's next step."""
        hidden = self(items).flatten(0, 1).index_select(0, rows)
        if len(candidates):
            step = self.steps_taken % self.steps_of_a_client
            self.steps_taken += 1
            return functional.cross_entropy(hidden @ self.items(candidates[step]).T, targets[step])
        return functional.cross_entropy(hidden @ self.items.weight[1:].T, targets)


class Block(nn.Module):
    """Causal self-attention and a feed-forward part, each behind a LayerNorm and added to its input."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.value, self.output = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        normed = self.attention_norm(x)
        parts = (self.query, self.key, self.value)
        heads = (part(normed).view(B, L, self.num_heads, -1).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(B, L, D))
        return x + self.outer(torch.relu(self.inner(self.feedforward_norm(x))))


def local_steps(model: SASRec, optimizer: torch.optim.Optimizer, client: Client, settings: Settings) -> None:
    """One client's local training, in place."""
    for _ in range(settings.local_steps):
        optimizer.zero_grad()
        model.loss(client.items, client.rows, client.targets, client.candidates).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()


NAMES = {"items.weight": "backbone.item_embedding", "positions.weight": "backbone.position_embedding"}


def name_in_fedmm(name: str) -> str:
    """fedmm's name of the module's parameter."""
    return NAMES.get(name, "backbone." + name.replace("blocks.", "block"))
