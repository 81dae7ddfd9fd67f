"""A cache of keys and values for rows that grow independently; the slot of a token is its position.

Letters: R rows, B rows of one call, T tokens of one call, N heads, S slots, H head width.
"""

import torch
from torch import Tensor

from models.mllm.config import TextModelConfig


class RowCache:
    """Fixed memory for keys and values; passed to the attention layers of transformers as `past_key_values`.

    `prefill` or `decode` must be called before each forward pass. Tokens that pad a short row of a call are stored in
    slots after its end: no mask makes them visible, and the row's next tokens overwrite them.
    """

    def __init__(
        self, config: TextModelConfig, *, rows: int, slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (rows, config.num_key_value_heads, slots, config.hidden_size // config.num_heads)
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self._rows = torch.zeros(0, dtype=torch.long, device=device)
        self._positions_BT: Tensor | None = None
        self._visible = 0

    def prefill(self, rows: Tensor) -> None:
        """Prepare a call that starts these rows anew; its tokens see only each other."""
        self._rows, self._positions_BT = rows, None

    def decode(self, positions_BT: Tensor, visible: int) -> None:
        """Prepare a call that adds tokens at these positions to the first B rows; they see slots below `visible`."""
        self._rows = torch.arange(len(positions_BT), device=positions_BT.device)
        self._positions_BT, self._visible = positions_BT, visible

    def update(
        self, keys_BNTH: Tensor, values_BNTH: Tensor, layer: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer: store its keys and values, and return those visible to this call."""
        keys, values = self._keys[layer], self._values[layer]
        if self._positions_BT is None:
            tokens = keys_BNTH.shape[2]
            keys[self._rows, :, :tokens], values[self._rows, :, :tokens] = keys_BNTH, values_BNTH
            return keys_BNTH, values_BNTH
        index = (self._rows[:, None], slice(None), self._positions_BT)
        keys[index], values[index] = keys_BNTH.transpose(1, 2), values_BNTH.transpose(1, 2)
        rows = len(self._rows)
        return keys[:rows, :, : self._visible], values[:rows, :, : self._visible]
