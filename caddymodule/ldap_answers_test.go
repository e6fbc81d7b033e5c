package caddymodule

import (
	"slices"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

func ldapResult(id int64, tag ber.Tag, code uint16) []byte {
	result := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	result.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
	result.AppendChild(ldapString(""))
	result.AppendChild(ldapString("as the test says"))
	return ldapMessage(id, result)
}

func ldapMessage(id int64, op *ber.Packet) []byte {
	message := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
	message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	message.AppendChild(op)
	return message.Bytes()
}

func ldapString(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func (l *ldapServer) bind(op *ber.Packet, bound *string) uint16 {
	dn, given := op.Children[1].Value.(string), op.Children[2].Data.String()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dns = append(l.dns, dn)
	*bound = ""
	if code := l.refuse[dn]; code != 0 {
		return code
	}
	if given == "" {
		return ldap.LDAPResultSuccess // as servers do: the trap
	}
	for _, e := range l.entries {
		if sameDN(e.DN, dn) && e.GetAttributeValue("userPassword") == given {
			*bound = dn
			return ldap.LDAPResultSuccess
		}
	}
	return ldap.LDAPResultInvalidCredentials
}

func (l *ldapServer) search(id int64, op *ber.Packet, bound string) []byte {
	base, scope, limit := op.Children[0].Value.(string), op.Children[1].Value.(int64), op.Children[3].Value.(int64)
	filter, err := ldap.DecompileFilter(op.Children[6])
	l.mu.Lock()
	defer l.mu.Unlock()
	l.filters = append(l.filters, filter)
	if err != nil || bound == "" {
		return ldapResult(id, ldap.ApplicationSearchResultDone, ldap.LDAPResultInsufficientAccessRights)
	}
	var answer []byte
	code := uint16(ldap.LDAPResultSuccess)
	for _, e := range l.entries {
		if !sameDN(e.DN, base) && (scope == ldap.ScopeBaseObject || !strings.HasSuffix(dnKey(e.DN), dnKey(base))) || !matches(e, op.Children[6]) {
			continue
		}
		if limit == 0 {
			code = ldap.LDAPResultSizeLimitExceeded
			break
		}
		limit--
		entry := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
		entry.AppendChild(ldapString(e.DN))
		list := ber.NewSequence("")
		for _, wanted := range op.Children[7].Children {
			for _, a := range e.Attributes {
				if strings.EqualFold(a.Name, wanted.Value.(string)) {
					attribute, values := ber.NewSequence(""), ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
					for _, v := range a.Values {
						values.AppendChild(ldapString(v))
					}
					attribute.AppendChild(ldapString(a.Name))
					attribute.AppendChild(values)
					list.AppendChild(attribute)
				}
			}
		}
		entry.AppendChild(list)
		answer = append(answer, ldapMessage(id, entry)...)
	}
	return append(answer, ldapResult(id, ldap.ApplicationSearchResultDone, code)...)
}

// ldapValue is the same for values that servers take to be equal.
func ldapValue(v string) string {
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

// sameDN reports whether two texts are spellings of one DN.
func sameDN(a, b string) bool { return dnKey(a) == dnKey(b) }

// matches knows and, or, not, presence and equality as that of names is: without
// regard to case, to white space at the ends and to compatible characters.
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
			return ldapValue(v) == ldapValue(filter.Children[1].Value.(string))
		})
	}
	return false
}
