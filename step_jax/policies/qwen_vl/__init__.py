"""Qwen2-VL, Qwen2.5-VL and Llama-type text models, from checkpoint to loss."""
