"""What every training process would do once, done before the fork: a plot, a tokenizer, a save.

Only Python's own caches are filled. Tensors stay tiny, because torch's threads do not survive a
fork, and with few elements there are none.
"""

import io
import tempfile

from matplotlib.figure import Figure
from transformers import CLIPTextConfig, CLIPTextModel

from ldm.conditions.tokenizers import clip_bpe_tokenizer

figure = Figure()
axes = figure.subplots()
axes.plot([1, 2], [1, 10], label="x")
axes.set(xlabel="t", ylabel="loss", yscale="log")
axes.legend()
figure.savefig(io.BytesIO(), format="png")

clip_bpe_tokenizer()

small = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 1}
with tempfile.TemporaryDirectory() as folder:
    CLIPTextModel(CLIPTextConfig(num_hidden_layers=1, **small)).save_pretrained(folder)
