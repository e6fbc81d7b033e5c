package header

// IsVisible reports whether s consists of visible ASCII characters (RFC 5234, VCHAR), so
// that it can be a part of a field without quotes.
func IsVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
