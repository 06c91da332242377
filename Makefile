# Everything is built outside the clone, so that a fresh clone finds what an earlier one compiled.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kelson/target
export CC := $(shell command -v ccache >/dev/null && echo ccache gcc || echo gcc)
export CXX := $(shell command -v ccache >/dev/null && echo ccache g++ || echo g++)
