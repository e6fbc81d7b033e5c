package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// sum is a keyed digest.
type sum [sha256.Size]byte

// sum returns the digest of a list of texts. Different lists have different
// digests.
func (t *Throttle) sum(texts ...string) (sum sum) {
	mac := hmac.New(sha256.New, t.key[:])
	for _, text := range texts {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(text)))
		mac.Write([]byte(text))
	}
	mac.Sum(sum[:0])
	return sum
}

// subnetOf returns the part of an address that distinguishes clients: an IPv4
// address, or the /64 of an IPv6 address, which is what a customer is given.
func subnetOf(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address // a Unix socket: all its clients count as one
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}

// maxLooseName is the length of the longest name that looseName changes, in
// bytes. No account has a longer name.
const maxLooseName = 1 << 10

// looseName returns the same text for all spellings of a name that any directory
// takes for one account: it ignores case, white space, marks, and compatible
// forms of characters (Unicode NFKC). Different accounts may share it, so it is
// only good for limits, not for identifying an account.
func looseName(name string) string {
	if len(name) > maxLooseName {
		return name
	}
	name = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Mn, unicode.Cf) || r == '\u1806' || r == '\ufffc' {
			return -1 // LDAP servers ignore some of these (RFC 4518, section 2.2)
		}
		return r
	}, norm.NFKD.String(name))
	return strings.Join(strings.Fields(norm.NFKC.String(cases.Fold().String(name))), " ")
}
