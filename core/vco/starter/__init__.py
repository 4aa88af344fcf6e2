"""What `vco new` begins a plugin with: one component of each kind, code that is linted, typed and checked where it is.

Nothing registers them. `vco new` copies one and replaces its name, in any spelling: that of the module, so `my-loss`,
`my_loss` or `MyLoss` in `loss.py`. As any plugin, a starter imports libraries and `vco.api`.
"""
