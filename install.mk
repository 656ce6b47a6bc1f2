# A lab hypervisor: the programs in a virtual environment of their own, links to them, units, an example of the settings.
# DESTDIR stages all of it below another root. What stacks have left behind is the business of `idm down`, not ours.

DESTDIR  ?=
PREFIX   ?= /opt/stackmend
BINDIR   ?= /usr/local/bin
UNITDIR  ?= /usr/local/lib/systemd/system
CONFDIR  ?= /etc/stackmend
PROGRAMS := dm dma idm
UNITS    := $(notdir $(wildcard idm/units/*.service))
STAGED   := $(DESTDIR)$(PREFIX)
EXAMPLE  := $(PREFIX)/share/idm.toml
# Whoever stages tells systemd nothing.
SYSTEMCTL := $(if $(DESTDIR)$(if $(wildcard /run/systemd/system),,none),@:,$(SUDO) systemctl)

.PHONY: install uninstall

install: build
	$(SUDO) $(PYTHON) -m venv --clear --without-pip $(STAGED)
	$(SUDO) $(BIN)/pip --quiet --python $(STAGED)/bin/python install --no-deps --require-hashes -r runtime.lock
	$(SUDO) $(BIN)/pip --quiet --python $(STAGED)/bin/python install --no-deps --no-index --find-links dist stackmend
	@$(SUDO) mkdir -p $(STAGED)/system $(STAGED)/share
	@$(SUDO) ln -sn -t $(STAGED)/system $(SYSTEM)/bcc $(SYSTEM)/libvirt*.py $(SYSTEM)/libvirtmod*.so
	@echo $(PREFIX)/system | $(SUDO) tee $$(echo $(STAGED)/lib/python3*/site-packages)/system.pth >/dev/null
	@$(SUDO) find $(STAGED)/bin $(STAGED)/pyvenv.cfg -type f -exec sed -i 's|$(STAGED)|$(PREFIX)|g' {} +
	@$(SUDO) install -d $(addprefix $(DESTDIR),$(BINDIR) $(UNITDIR) $(CONFDIR)/stacks $(CONFDIR)/dm)
	$(SUDO) ln -sfn -t $(DESTDIR)$(BINDIR) $(addprefix $(PREFIX)/bin/,$(PROGRAMS))
	$(SUDO) install -m 644 -t $(DESTDIR)$(UNITDIR) $(addprefix idm/units/,$(UNITS))
	@$(SUDO) install -m 644 idm/units/idm.toml $(DESTDIR)$(EXAMPLE)
	@test -e $(DESTDIR)$(CONFDIR)/idm.toml || \
	    $(SUDO) install -m 644 idm/units/idm.toml $(DESTDIR)$(CONFDIR)/idm.toml
	$(SYSTEMCTL) daemon-reload

# A setting that was changed stays, and so does a directory that is not empty.
uninstall:
	@$(if $(DESTDIR),,for socket in /run/stackmend/*/dm.sock; do if test -S $$socket; then \
	    echo "a manager is at $$socket: end its stack first (idm down)"; exit 1; fi; done)
	$(SYSTEMCTL) disable $(UNITS)
	$(SYSTEMCTL) stop 'stackmend-*'
	@if cmp -s $(DESTDIR)$(EXAMPLE) $(DESTDIR)$(CONFDIR)/idm.toml; then \
	    $(SUDO) rm $(DESTDIR)$(CONFDIR)/idm.toml; fi
	@for program in $(PROGRAMS); do link=$(DESTDIR)$(BINDIR)/$$program; \
	    if test "$$(readlink $$link)" = $(PREFIX)/bin/$$program; then $(SUDO) rm $$link; fi; done
	$(SUDO) rm -f $(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS))
	$(SUDO) rm -rf $(STAGED)
	@for directory in $(CONFDIR)/stacks $(CONFDIR)/dm $(CONFDIR) $(UNITDIR); do \
	    if test -d $(DESTDIR)$$directory; then \
	        $(SUDO) rmdir --ignore-fail-on-non-empty $(DESTDIR)$$directory; fi; done
	$(SYSTEMCTL) daemon-reload
