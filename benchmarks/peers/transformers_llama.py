"""transformers' Llama in the loop of its Trainer: autocast, fused AdamW, clipping at 1."""

import torch
from common import imported, loop, task
from transformers import LlamaConfig, LlamaForCausalLM

job = task()
config = LlamaConfig(
    vocab_size=job.vocab, hidden_size=job.width, intermediate_size=job.hidden, num_hidden_layers=job.layers,
    num_attention_heads=job.heads, num_key_value_heads=job.heads, max_position_embeddings=job.length,
    tie_word_embeddings=job.tied, use_cache=False,
)  # fmt: skip
imported()
model = LlamaForCausalLM(config)
if job.precision == "true":
    model = model.to(torch.bfloat16)
called = torch.compile(model) if job.compiled else model
optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
# The model shifts labels itself; given as they are, its own loss would see every target one place too far.
loop(job, model, lambda x, y: called(input_ids=x, labels=x, shift_labels=y).loss, optimizer)
