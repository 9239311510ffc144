"""Well-known models whose config is bundled: what they are, where it is from, and how large they are said to be.

The files in `bundled_configs` have the fields of each model's public config.json that shape its weights and its cache, so
that any of them can be planned for without asking the Hub. Knows nothing of what a config means.
"""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "bundled_configs"


@dataclass(frozen=True)
class KnownConfig:
    """One bundled config.

    Attributes:
        name: what a user types or picks; the folder of its config.json.
        hub_id: the model on the Hugging Face Hub.
        num_parameters: unique weights as its code makes them (tied ones counted once).
        note: one line on what its cache is like.
        aliases: other spellings that lead here.
    """

    name: str
    hub_id: str
    num_parameters: int
    note: str
    aliases: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Holds its config.json and nothing else."""
        return FOLDER / self.name

    @property
    def source(self) -> str:
        """The public file."""
        return f"https://huggingface.co/{self.hub_id}/blob/main/config.json"


KNOWN_CONFIGS: tuple[KnownConfig, ...] = (
    KnownConfig("GPT-2", "openai-community/gpt2", 124_439_808, "full multi-head attention, learned positions", ("gpt2",)),
    KnownConfig("SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008, "3 KV heads for 9 query heads"),
    KnownConfig(
        "SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120, "5 KV heads for 15 query heads"
    ),
    KnownConfig("Qwen3-0.6B", "Qwen/Qwen3-0.6B", 596_049_920, "heads of 128, more than hidden size over heads"),
    KnownConfig("Gemma-3-1B", "google/gemma-3-1b-pt", 999_885_952, "one KV head; 5 layers of 6 have a window of 512"),
    KnownConfig("TinyLlama-1.1B-Chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384, "4 KV heads for 32 query heads"),
    KnownConfig("Llama-2-7B", "meta-llama/Llama-2-7b-hf", 6_738_415_616, "the article's model: half a megabyte a token"),
    KnownConfig("Falcon-7B", "tiiuae/falcon-7b", 6_921_720_704, "multi-query attention: 71 query heads, one KV head"),
    KnownConfig("Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1", 7_241_732_096, "every layer has a window of 4096"),
    KnownConfig("Llama-3.1-8B", "meta-llama/Llama-3.1-8B", 8_030_261_248, "8 KV heads for 32 query heads"),
    KnownConfig("Qwen3-8B", "Qwen/Qwen3-8B", 8_190_735_360, "8 KV heads for 32 query heads"),
    KnownConfig(
        "GPT-OSS-20B", "openai/gpt-oss-20b", 20_914_757_184, "a mixture of experts; every other layer's window is 128"
    ),
    KnownConfig(
        "Gemma-3-27B", "google/gemma-3-27b-pt", 27_009_346_304, "the text part; 5 layers of 6 have a window of 1024"
    ),
    KnownConfig("Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B", 30_532_122_624, "a mixture of experts: 8 of 128 for each token"),
    KnownConfig(
        "Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, "a mixture of experts: 2 of 8 for each token"
    ),
    KnownConfig("Llama-3.1-70B", "meta-llama/Llama-3.1-70B", 70_553_706_496, "8 KV heads for 64 query heads"),
    KnownConfig("Qwen2.5-72B", "Qwen/Qwen2.5-72B", 72_706_203_648, "8 KV heads for 64 query heads"),
    KnownConfig(
        "Llama-3.1-405B", "meta-llama/Llama-3.1-405B", 405_853_388_800, "126 layers, 8 KV heads for 128 query heads"
    ),
    KnownConfig("DeepSeek-V3", "deepseek-ai/DeepSeek-V3", 671_026_404_352, "one latent for 128 heads; 8 of 256 experts"),
)
"""By size."""


def find_known_config(name: str) -> KnownConfig | None:
    """The bundled config that `name` means: a name, an alias or a Hub id, in any case; None if there is none."""
    wanted = name.casefold()
    for known in KNOWN_CONFIGS:
        if wanted in {spelling.casefold() for spelling in (known.name, known.hub_id, *known.aliases)}:
            return known
    return None
