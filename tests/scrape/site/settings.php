<?php
// What the test wiki has beyond a fresh installation: extensions, a licence, and an <infobox> tag that renders as the
// PortableInfobox extension documents it.

wfLoadExtensions( [ 'ParserFunctions', 'Cite', 'Poem' ] );
$wgServer = 'http://' . ( $_SERVER['HTTP_HOST'] ?? '127.0.0.1' );
$wgRightsText = 'Creative Commons Attribution-ShareAlike 3.0';
$wgRightsUrl = 'https://creativecommons.org/licenses/by-sa/3.0/';
$wgMainCacheType = CACHE_DB;
$wgParserCacheType = CACHE_NONE;
$wgJobRunRate = 0;
// Nobody needs this wiki after a power cut.
$wgDBservers = [ [
	'type' => 'sqlite', 'dbname' => $wgDBname, 'dbDirectory' => $wgSQLiteDataDir, 'host' => '', 'user' => '',
	'password' => '', 'load' => 1, 'flags' => 0, 'trxMode' => 'IMMEDIATE', 'variables' => [ 'synchronous' => 'OFF' ],
] ];

$wgDiff = false;
$wgAllowUserCss = false;
// So small that answers with content break off by size too, and not only by number.
$wgAPIMaxResultSize = 1300000;

$wgHooks['ParserFirstCallInit'][] = static function ( Parser $parser ) {
	$parser->setHook( 'infobox', static function ( $text, $args, Parser $parser, PPFrame $frame ) {
		$box = new SimpleXMLElement( "<infobox>$text</infobox>" );
		$html = '';
		foreach ( $box->data as $data ) {
			$source = (string)$data['source'];
			$value = trim( (string)$frame->getArgument( $source ) ) ?: trim( (string)$data->default );
			if ( $value === '' ) {
				continue;
			}
			$label = Parser::stripOuterParagraph( $parser->recursiveTagParseFully( (string)$data->label, $frame ) );
			$label = $label === '' ? '' : "<h3 class=\"pi-data-label pi-secondary-font\">$label</h3>";
			$shown = $parser->recursiveTagParseFully( "\n$value", $frame );
			$html .= "<div class=\"pi-item pi-data pi-item-spacing pi-border-color\" data-source=\"$source\">$label" .
				"<div class=\"pi-data-value pi-font\">$shown</div></div>";
		}
		$title = htmlspecialchars( $frame->getArgument( 'name' ) ?: $parser->getTitle()->getText() );
		$html = "<aside role=\"region\" class=\"portable-infobox pi-background pi-theme-wikia pi-layout-default\">" .
			"<h2 class=\"pi-item pi-title\" data-source=\"name\">$title</h2>$html</aside>";
		return [ $html, 'markerType' => 'nowiki' ];
	} );
};
