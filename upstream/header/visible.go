package header

// IsVisible reports whether s consists of visible ASCII characters (VCHAR in RFC 5234).
func IsVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
