"""Kernels from the Hugging Face kernel hub: an optional door, opened only when somebody asks for a kernel.

Each kernel stands beside a plain reference in this folder, which is what runs where the package, the device or the
network is not there.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HubKernel:
    """One kernel: where it lies, and which of its versions."""

    name: str
    """OWNER/NAME on the hub."""
    version: int
    """Numbered version; never a moving branch."""

    def fetched(self) -> Any | None:
        """The kernel's module, from the cache or the hub; None where the package `kernels` is not installed.

        Raises:
            OSError: it is neither cached nor to be had, or there is no build of it for this machine.
        """
        try:
            from kernels import get_kernel  # type: ignore[import-not-found]
        except ImportError:
            return None
        return get_kernel(self.name, version=self.version)


MEGABLOCKS = HubKernel("kernels-community/megablocks", 1)
"""Dropless experts; what it exports is what `ops.megablocks.megablocks_product` takes."""
