"""Memories: modules that carry what happened before, under one contract.

A language model is a memory too: `seqrl.memory.hugging_face`, which needs the optional package transformers.
"""

from seqrl.memory.base import Memory, State
from seqrl.memory.frame_stack import FrameStack
from seqrl.memory.linear import LinearRecurrence
from seqrl.memory.linear_attention import LinearAttention
from seqrl.memory.make import MEMORIES, make_memory
from seqrl.memory.none import NoMemory
from seqrl.memory.recurrent import GRU, LSTM
from seqrl.memory.reencoded import Reencoded
from seqrl.memory.transformer import Transformer

__all__ = [
    "GRU",
    "LSTM",
    "MEMORIES",
    "FrameStack",
    "LinearAttention",
    "LinearRecurrence",
    "Memory",
    "NoMemory",
    "Reencoded",
    "State",
    "Transformer",
    "make_memory",
]
