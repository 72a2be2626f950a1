"""Texts (plugin): characters, bytes or tokens of a file as classes, in windows of one length.

* :class:`Text`: the data set.
* :class:`BytesCodec`, :class:`TokenCodec`: the codecs of bytes and of tokens; characters have
  :class:`~bfn_toolkit.TextCodec`.
"""

from __future__ import annotations

from collections.abc import Sequence

from bfn_text.codecs import BytesCodec, TokenCodec, TokenText
from bfn_text.dataset import Text
from bfn_toolkit import Entry, hookimpl

__all__ = ["BytesCodec", "Text", "TokenCodec", "TokenText"]


@hookimpl
def bfn_datasets() -> Sequence[Entry]:
    """The data set, without examples, because these would need a file."""
    return [Entry("text", Text)]


@hookimpl
def bfn_codecs() -> Sequence[Entry]:
    """The codecs of bytes and of tokens; that of tokens without examples, because it needs the library tokenizers."""
    return [Entry("bytes", BytesCodec, (BytesCodec(length=3),)), Entry("tokens", TokenCodec)]
