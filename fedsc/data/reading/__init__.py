"""Reading files: every format the field uses becomes one validated Expression."""
