"""Tests of `babylon_rl.fanout`."""
