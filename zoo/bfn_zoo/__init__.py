"""Small trained models for bfn-toolkit, a folder each; ``bfn zoo`` lists them."""
