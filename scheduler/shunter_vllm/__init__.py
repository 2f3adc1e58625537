"""A connector for vLLM by which the KV cache of a running request goes to another vLLM engine.

vLLM loads `shunter_vllm.connector:ShunterConnector` where `--kv-transfer-config` names it. All
other modules but `tensors` do without vLLM and torch.
"""
