"""Recognises licences stated in records, with their SPDX names and addresses and their Hugging Face names."""

import re
from dataclasses import dataclass

SPDX = "https://spdx.org/licenses/"
# Licence names that Hugging Face cards accept, for licences used for data; lower-case SPDX names.
# Source: https://huggingface.co/docs/hub/repositories-licenses
_HUGGING_FACE = frozenset(
    {"afl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc", "cc-by-2.0",
     "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0",
     "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0",
     "cc-by-sa-4.0", "cc0-1.0", "gfdl", "gpl-2.0", "gpl-3.0", "isc", "mit", "mpl-2.0", "odbl", "odc-by", "pddl",
     "unlicense", "wtfpl", "zlib"}
)  # fmt: skip
_SPDX_NAMES = {
    name.lower(): name
    for name in (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unlicense", "CC0-1.0", "PDDL-1.0", "ODC-By-1.0",
        "ODbL-1.0", "MPL-2.0", "GPL-2.0-only", "GPL-3.0-only",
        *(f"CC-BY{kind}-{version}" for kind in ("", "-SA", "-NC", "-ND", "-NC-SA", "-NC-ND")
          for version in ("1.0", "2.0", "2.5", "3.0", "4.0")),
    )
}  # fmt: skip
_OTHER_NAMES = {"cc0": "CC0-1.0", "pddl": "PDDL-1.0", "odc-by": "ODC-By-1.0", "odbl": "ODbL-1.0"}
_TO_HUGGING_FACE = {"pddl-1.0": "pddl", "odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "gpl-2.0-only": "gpl-2.0",
                    "gpl-3.0-only": "gpl-3.0"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A licence as stated in records; `spdx` is its SPDX name, None if it is not recognised."""

    stated: str
    spdx: str | None

    @property
    def address(self) -> str | None:
        return f"{SPDX}{self.spdx}.html" if self.spdx else None

    @property
    def hugging_face(self) -> str:
        """Its name on Hugging Face; "other" if there is none."""
        name = (self.spdx or "").lower()
        name = _TO_HUGGING_FACE.get(name, name)
        return name if name in _HUGGING_FACE else "other"


def known_licence(stated: str) -> Licence:
    """The licence with its SPDX name, recognised in any spelling ("cc by 4.0", "CC-BY-4.0"); guesses nothing else."""
    plain = re.sub(r"[\s_]+", "-", stated.strip()).lower()
    spdx = _SPDX_NAMES.get(plain) or (_SPDX_NAMES.get(_OTHER_NAMES[plain].lower()) if plain in _OTHER_NAMES else None)
    return Licence(stated=stated, spdx=spdx)
