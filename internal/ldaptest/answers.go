package ldaptest

import (
	"slices"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

func result(id int64, tag ber.Tag, code uint16) []byte {
	result := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	result.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
	result.AppendChild(text(""))
	result.AppendChild(text("as the test says"))
	return message(id, result)
}

func message(id int64, op *ber.Packet) []byte {
	message := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
	message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	message.AppendChild(op)
	return message.Bytes()
}

func text(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func (l *Server) bind(op *ber.Packet, bound *string) uint16 {
	dn, given := op.Children[1].Value.(string), op.Children[2].Data.String()
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.dns = append(l.dns, dn)
	*bound = ""
	if code := l.Refuse[dn]; code != 0 {
		return code
	}
	if given == "" {
		return ldap.LDAPResultSuccess // as servers do: the trap
	}
	for _, e := range l.Entries {
		if SameDN(e.DN, dn) && e.GetAttributeValue("userPassword") == given {
			*bound = dn
			return ldap.LDAPResultSuccess
		}
	}
	return ldap.LDAPResultInvalidCredentials
}

func (l *Server) search(id int64, op *ber.Packet, bound string) []byte {
	base, scope, limit := op.Children[0].Value.(string), op.Children[1].Value.(int64), op.Children[3].Value.(int64)
	filter, err := ldap.DecompileFilter(op.Children[6])
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.filters = append(l.filters, filter)
	if err != nil || bound == "" {
		return result(id, ldap.ApplicationSearchResultDone, ldap.LDAPResultInsufficientAccessRights)
	}
	var answer []byte
	code := uint16(ldap.LDAPResultSuccess)
	for _, e := range l.Entries {
		if !SameDN(e.DN, base) && (scope == ldap.ScopeBaseObject || !strings.HasSuffix(dnKey(e.DN), dnKey(base))) || !matches(e, op.Children[6]) {
			continue
		}
		if limit == 0 {
			code = ldap.LDAPResultSizeLimitExceeded
			break
		}
		limit--
		entry := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
		entry.AppendChild(text(e.DN))
		list := ber.NewSequence("")
		for _, wanted := range op.Children[7].Children {
			for _, a := range e.Attributes {
				if strings.EqualFold(a.Name, wanted.Value.(string)) {
					attribute, values := ber.NewSequence(""), ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
					for _, v := range a.Values {
						values.AppendChild(text(v))
					}
					attribute.AppendChild(text(a.Name))
					attribute.AppendChild(values)
					list.AppendChild(attribute)
				}
			}
		}
		entry.AppendChild(list)
		answer = append(answer, message(id, entry)...)
	}
	return append(answer, result(id, ldap.ApplicationSearchResultDone, code)...)
}

// ValueKey returns the same text for all values that servers consider equal.
func ValueKey(v string) string {
	return cases.Fold().String(norm.NFKC.String(strings.Join(strings.Fields(v), " ")))
}

// dnKey returns the same text for all spellings of a DN.
func dnKey(dn string) string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return dn
	}
	return strings.ToLower(parsed.String())
}

// SameDN reports whether two texts are spellings of one DN.
func SameDN(a, b string) bool { return dnKey(a) == dnKey(b) }

// matches reports whether an entry matches a filter of and, or, not, presence and equality.
// Values are compared like names: without regard to case, white space at the ends and
// compatible characters.
func matches(e *ldap.Entry, filter *ber.Packet) bool {
	match := func(f *ber.Packet) bool { return matches(e, f) }
	switch filter.Tag {
	case ldap.FilterAnd:
		return !slices.ContainsFunc(filter.Children, func(f *ber.Packet) bool { return !match(f) })
	case ldap.FilterOr:
		return slices.ContainsFunc(filter.Children, match)
	case ldap.FilterNot:
		return !match(filter.Children[0])
	case ldap.FilterPresent:
		return filter.Data.String() == "objectClass" || len(e.GetEqualFoldAttributeValues(filter.Data.String())) > 0
	case ldap.FilterEqualityMatch:
		return slices.ContainsFunc(e.GetEqualFoldAttributeValues(filter.Children[0].Value.(string)), func(v string) bool {
			return ValueKey(v) == ValueKey(filter.Children[1].Value.(string))
		})
	}
	return false
}
