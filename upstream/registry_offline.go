package upstream

// IsOffline reports whether the upstream must not be asked, see Config.Offline. Its
// addresses are either all offline or none of them is.
func (m *Mirrors) IsOffline() bool { return m.registries[0].offline }

// checkOnline returns an error of kind [Offline] if the registry must not be asked.
func (r *Registry) checkOnline(c *call) error {
	if r.offline {
		return r.newError(c, Offline, 0, "not asked, because the upstream is offline by configuration")
	}
	return nil
}
