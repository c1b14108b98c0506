"""Documents and samples to ids: what stands in the shards, and which of it is trained on."""

from collections.abc import Sequence

from cirilla_cli.data.rows import Document, Message, Sample
from cirilla_cli.data.segments import Block
from cirilla_cli.data.shards import Encoded, Kind
from cirilla_cli.data.tokenizer import Tokenizer


def kind_of(record: Document | Sample) -> Kind:
    """Which folder of shards a record belongs to."""
    if isinstance(record, Document):
        return "text"
    return "preference" if record.kind == "preference" else "chat"


def encode_all(records: Sequence[Document | Sample], tokenizer: Tokenizer) -> list[Encoded]:
    """The shard documents of records of one kind, in order."""
    texts = [record.text for record in records if isinstance(record, Document)]
    documents = [Encoded(ids) for ids in framed(tokenizer, texts).parts()]
    return documents + [part for record in records if isinstance(record, Sample) for part in encode(record, tokenizer)]


def framed(tokenizer: Tokenizer, texts: Sequence[str]) -> Block:
    """Ids of texts as documents, with the begin and end tokens the model knows."""
    begin = tokenizer.bos_ids
    return tokenizer.encode_batch(texts).framed(begin, tokenizer.document([])[len(begin) :])


def encode(record: Sample, tokenizer: Tokenizer) -> list[Encoded]:
    """A sample's shard documents: one, or two for a preference (chosen, then rejected, sharing the prompt)."""
    if record.kind == "preference":
        return [answered(record.messages, answer or "", tokenizer) for answer in (record.chosen, record.rejected)]
    rendered = tokenizer.chat(record.conversation())
    return [Encoded(rendered.ids, rendered.trained)]


def answered(messages: Sequence[Message], answer: str, tokenizer: Tokenizer) -> Encoded:
    """Prompt and answer, of which the answer alone is trained on: earlier assistant turns belong to the prompt."""
    prompt = tokenizer.chat(messages, generation_prompt=True)
    whole = tokenizer.chat((*messages, Message(role="assistant", content=answer)))
    first = len(prompt.ids)
    return Encoded(whole.ids, [trained and i >= first for i, trained in enumerate(whole.trained)])


def training_text(record: Document | Sample) -> str:
    """The text a tokenizer learns from a record."""
    if isinstance(record, Document):
        return record.text
    turns = [m.content for m in record.conversation()]
    return "\n".join([*turns, *(a for a in (record.chosen, record.rejected) if a)])
