"""litgpt's GPT in the shape of a Llama, in the loop of its `pretrain`: bf16-mixed, AdamW, clipping at 1."""

import torch
from common import imported, loop, task
from litgpt import GPT, Config
from litgpt.utils import chunked_cross_entropy

job = task()
config = Config(
    block_size=job.length, vocab_size=job.vocab, padded_vocab_size=job.vocab, n_layer=job.layers, n_head=job.heads,
    n_embd=job.width, n_query_groups=job.heads, intermediate_size=job.hidden, rotary_percentage=1.0,
    parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
)  # fmt: skip
imported()
model = GPT(config)
if job.tied:
    model.lm_head.weight = model.transformer.wte.weight
if job.precision == "true":
    model = model.to(torch.bfloat16)
called = torch.compile(model) if job.compiled else model
optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr, betas=(0.9, 0.95), weight_decay=0.1)
loop(job, model, lambda x, y: chunked_cross_entropy(called(x), y), optimizer)
