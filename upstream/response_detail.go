package upstream

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
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
	for _, secret := range secretsOf(request) {
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

// secretsOf returns the secrets in the Authorization header of a request, and those
// in its body if that is a token request with a login, each also as in a URL.
func secretsOf(request *http.Request) (secrets []string) {
	add := func(secret string) {
		if secret != "" {
			secrets = append(secrets, secret, url.QueryEscape(secret))
		}
	}
	_, credentials, _ := strings.Cut(request.Header.Get("Authorization"), " ")
	add(credentials)
	if login, err := base64.StdEncoding.DecodeString(credentials); err == nil {
		_, password, _ := strings.Cut(string(login), ":")
		add(password)
	}
	if request.GetBody == nil {
		return secrets
	}
	body, err := request.GetBody()
	if err != nil {
		return secrets
	}
	defer body.Close()
	text, _ := io.ReadAll(body)
	form, _ := url.ParseQuery(string(text))
	add(form.Get("password"))
	add(form.Get("refresh_token"))
	return secrets
}
