"""Language: conversations in tokens, models that read and speak them, and what is learnt from logs of them."""
