"""RULER: a language model that sees the ground truth compares the episodes of one window.

views, truth      what the judge sees of episodes and market, slim and redacted
prompt, replies   how it is asked, and what counts as an answer
address, transport, litellm_transport, prices     where the request goes, how, and for how much
ledger, cache, client     budget and accounting, verdicts that are kept, attempts
split, canary, panel      groups too large for one request, tests of the judge, several orders
alarm, ruler, history     doubt, the scorer, storage
"""
