"""Common accelerators as facts: memory, memory bandwidth, and the vendor's page that says so.

A vendor's GB is read as 10^9 bytes and GB/s as 10^9 bytes a second: the smaller reading, so that what is said to fit does
(most vendors mean 2^30 of memory, 7 % more; what a driver takes for itself is in `planning.RESERVE`). Bandwidth is the
vendor's peak, which no program reaches: what is computed with it is an upper bound. Knows nothing of models.
"""

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True)
class Accelerator:
    """One device.

    Attributes:
        name: as people call it.
        memory_bytes: of one device.
        bandwidth_bytes_per_s: peak of its memory; None where the source gives none.
        source: the page with both numbers.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: int | None
    source: str


NVIDIA = "https://www.nvidia.com/en-us/data-center/"
TPU = "https://docs.cloud.google.com/tpu/docs/"

ACCELERATORS: tuple[Accelerator, ...] = (
    Accelerator("Space CPU basic", 16 * GB, None, "https://huggingface.co/docs/hub/spaces-overview#hardware-resources"),
    Accelerator("NVIDIA T4", 16 * GB, 320 * GB, f"{NVIDIA}tesla-t4/"),
    Accelerator("Google TPU v5e", 16 * GB, 819 * GB, f"{TPU}v5e"),
    Accelerator("NVIDIA L4", 24 * GB, 300 * GB, f"{NVIDIA}l4/"),
    Accelerator(
        "NVIDIA A10G",
        24 * GB,
        600 * GB,
        "https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf",
    ),
    Accelerator(
        "NVIDIA RTX 3090",
        24 * GB,
        936 * GB,
        "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf",
    ),
    Accelerator(
        "NVIDIA RTX 4090",
        24 * GB,
        1008 * GB,
        "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf",
    ),
    Accelerator("Google TPU v6e", 32 * GB, 1600 * GB, f"{TPU}v6e"),
    Accelerator("NVIDIA A100 40 GB", 40 * GB, 1555 * GB, f"{NVIDIA}a100/"),
    Accelerator("NVIDIA L40S", 48 * GB, 864 * GB, f"{NVIDIA}l40s/"),
    Accelerator("NVIDIA A100 80 GB SXM", 80 * GB, 2039 * GB, f"{NVIDIA}a100/"),
    Accelerator("NVIDIA H100 SXM", 80 * GB, 3350 * GB, f"{NVIDIA}h100/"),
    Accelerator("Google TPU v5p", 95 * GB, 2765 * GB, f"{TPU}v5p"),
    Accelerator("NVIDIA H200", 141 * GB, 4800 * GB, f"{NVIDIA}h200/"),
    Accelerator("NVIDIA B200", 180 * GB, 8000 * GB, f"{NVIDIA}dgx-b200/"),
    Accelerator(
        "AMD MI300X",
        192 * GB,
        5300 * GB,
        "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html",
    ),
)
"""By memory, then bandwidth."""
