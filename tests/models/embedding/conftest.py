"""Settings with a cache of the test run's own, and a small BERT-family folder with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from chatrpc.settings import EmbedderSettings

HIDDEN, INTERMEDIATE, LAYERS, HEADS, POSITIONS = 16, 32, 2, 4, 24
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "fox", "hen", "runs", "sleeps", "."]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedder-cache")


@pytest.fixture(scope="session")
def embedder_settings(cache_dir: Path) -> Callable[..., EmbedderSettings]:
    """Settings with the given values over the defaults."""

    def settings(**values: Any) -> EmbedderSettings:
        return EmbedderSettings(**{"cache_dir": str(cache_dir), **values})

    return settings


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A whole Sentence Transformers folder of the BERT family, mean pooling, a few kilobytes."""
    folder = tmp_path / "tiny-bert"
    (folder / "1_Pooling").mkdir(parents=True)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": len(VOCABULARY),
        "layer_norm_eps": 1e-6,
        "pad_token_id": 0,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False})
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
    )
    set_pooling(folder, "mean")
    special = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 20, **special}
    )
    tokenizer = Tokenizer(WordPiece({token: place for place, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(random_weights(), folder / "model.safetensors")
    return folder


def set_pooling(folder: Path, *modes: str) -> None:
    flags = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    pooling = {f"pooling_mode_{flag}": mode in modes for mode, flag in flags.items()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **pooling})


def change_json(file: Path, **values: Any) -> None:
    write_json(file, {**json.loads(file.read_text()), **values})


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))


def random_weights() -> dict[str, np.ndarray]:
    shapes = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for name, shape in (
            ("attention.self.query", (HIDDEN, HIDDEN)),
            ("attention.self.key", (HIDDEN, HIDDEN)),
            ("attention.self.value", (HIDDEN, HIDDEN)),
            ("attention.output.dense", (HIDDEN, HIDDEN)),
            ("attention.output.LayerNorm", (HIDDEN,)),
            ("intermediate.dense", (INTERMEDIATE, HIDDEN)),
            ("output.dense", (HIDDEN, INTERMEDIATE)),
            ("output.LayerNorm", (HIDDEN,)),
        ):
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
    generator = np.random.default_rng(7)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
