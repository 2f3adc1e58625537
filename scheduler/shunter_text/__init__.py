"""Text to tokens and back: tokenizers, chat templates, block hashes. Shared by gateway and engine.

tokenizer = await asyncio.to_thread(load_tokenizer, source)   # sim:// file:// hf:// pypi://
ids = tokenizer.encode(text)
ids = tokenizer.encode_chat(messages, tools)                  # sandboxed chat template
decoder = tokenizer.decoder(prompt_tail_ids); decoder.step(id) -> str   # UTF-8 safe deltas
text = AnswerText(decoder, stop_strings)                      # deltas cut at a stop string
hashes = block_hashes(ids, root)                              # packed uint64, 64-token blocks
"""
