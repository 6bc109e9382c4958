#!/usr/bin/env bash
# Makes every icon from mark.svg: the application's (PNG) and the tray's, one per state. Run it after changing the mark
# or a colour; needs rsvg-convert (librsvg2-bin). The colours are those of ui's tokens.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

arch=$(sed 's/.*\(<path d="M6 27[^>]*>\).*/\1/' mark.svg)
flame=$(sed 's/.*<path d="\(M16 12[^"]*\)".*/\1/' mark.svg)
ember='#f2762e' warn='#e2b340' err='#e5604d'
# A tray may be light or dark: this grey stands out from both.
line='#8f8781'

# draw SIZE FILE SVG-BODY
draw() {
    printf '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">%s</svg>' "$3" |
        rsvg-convert --width "$1" --height "$1" --output "$2"
}

app='<rect width="32" height="32" rx="7" fill="#1d1b1a"/><g transform="translate(16 16) scale(.74) translate(-16 -15.6)">'
app+="${arch/currentColor/#f3efeb}<path d=\"$flame\" fill=\"$ember\"/></g>"
draw 32 32x32.png "$app"
draw 64 64x64.png "$app"
draw 128 128x128.png "$app"
draw 256 128x128@2x.png "$app"
draw 512 icon.png "$app"
printf '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">%s</svg>\n' "$app" >hearth.svg

# Shape as well as colour tells the states apart: hollow flame, half flame, full flame, exclamation mark.
tray=${arch/currentColor/$line}
hollow="<path d=\"$flame\" fill=\"none\" stroke=\"$line\" stroke-width=\"1.4\" stroke-linejoin=\"round\"/>"
draw 64 tray-idle.png "$tray$hollow"
draw 64 tray-loading.png "$tray<path d=\"$flame\" fill=\"none\" stroke=\"$warn\" stroke-width=\"1.4\" stroke-linejoin=\"round\"/>\
<clipPath id=\"low\"><rect y=\"19.500\" width=\"32\" height=\"12\"/></clipPath><path d=\"$flame\" fill=\"$warn\" clip-path=\"url(#low)\"/>"
draw 64 tray-serving.png "$tray<path d=\"$flame\" fill=\"$ember\"/>"
draw 64 tray-error.png "$tray<path d=\"M16 12v7\" stroke=\"$err\" stroke-width=\"3.200\" stroke-linecap=\"round\"/>\
<circle cx=\"16\" cy=\"24\" r=\"1.900\" fill=\"$err\"/>"
