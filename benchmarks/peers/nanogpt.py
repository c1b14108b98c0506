"""nanoGPT's GPT from a checkout, in the loop of its `train.py`: autocast, its own AdamW groups, clipping at 1."""

import sys

import torch
from common import imported, loop, task

job = task()
sys.path.insert(0, job.checkout)
from model import GPT, GPTConfig  # noqa: E402

imported()
model = GPT(
    GPTConfig(
        block_size=job.length, vocab_size=job.vocab, n_layer=job.layers, n_head=job.heads, n_embd=job.width,
        dropout=0.0, bias=False,
    )
)  # fmt: skip
if job.precision == "true":
    model = model.to(torch.bfloat16)
called = torch.compile(model) if job.compiled else model
optimizer = model.configure_optimizers(0.1, job.lr, (0.9, 0.95), "cpu")
loop(job, model, lambda x, y: called(x, y)[1], optimizer)
