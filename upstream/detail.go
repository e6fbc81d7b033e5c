package upstream

import (
	"encoding/base64"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxDetail is the length of Error.Detail in bytes.
	maxDetail = 200

	// maxWord is the length of the longest word in Error.Detail in bytes. Digests
	// and tokens are longer.
	maxWord = 40

	masked = "*****"
)

// loggable returns a message in the form of [Error.Detail]. The registry may quote
// the request in it.
func loggable(message string, request *http.Request) string {
	if request == nil {
		return ""
	}
	for _, secret := range secretsOf(request.Header.Get("Authorization")) {
		message = strings.ReplaceAll(message, secret, masked)
	}
	message = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, message)
	words := strings.Fields(message)
	for i, word := range words {
		if len(word) > maxWord || strings.Contains(word, "://") {
			words[i] = masked
		}
	}
	message = strings.Join(words, " ")
	if len(message) > maxDetail {
		message = strings.ToValidUTF8(message[:maxDetail], "")
	}
	return message
}

// secretsOf returns the secrets in the value of an Authorization header.
func secretsOf(authorization string) (secrets []string) {
	_, credentials, _ := strings.Cut(authorization, " ")
	if credentials == "" {
		return nil
	}
	secrets = append(secrets, credentials)
	if login, err := base64.StdEncoding.DecodeString(credentials); err == nil {
		if _, password, ok := strings.Cut(string(login), ":"); ok && password != "" {
			secrets = append(secrets, password)
		}
	}
	return secrets
}
