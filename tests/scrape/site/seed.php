<?php
// Saves pages into a test wiki: lines of JSON on standard input, {"title", "text"} or {"title", "delete": true}.
// A title that comes twice gets two revisions. Run with MW_CONFIG_FILE set.

use MediaWiki\MediaWikiServices;

require_once '/usr/share/mediawiki/maintenance/Maintenance.php';

class SeedWiki extends Maintenance {
	public function execute() {
		$user = User::newSystemUser( 'Seeder', [ 'steal' => true ] );
		$factory = MediaWikiServices::getInstance()->getWikiPageFactory();
		$done = 0;
		while ( ( $line = fgets( STDIN ) ) !== false ) {
			$row = json_decode( $line, true );
			$title = Title::newFromText( $row['title'] );
			if ( !$title ) {
				$this->fatalError( 'not a title: ' . $row['title'] );
			}
			$page = $factory->newFromTitle( $title );
			if ( !empty( $row['delete'] ) ) {
				$status = $page->doDeleteArticleReal( 'seed', $user );
			} else {
				$content = ContentHandler::makeContent( $row['text'], $title );
				$status = $page->doUserEditContent( $content, $user, 'seed', EDIT_FORCE_BOT );
			}
			if ( !$status->isOK() ) {
				$this->fatalError( $row['title'] . ': ' . $status->getMessage()->text() );
			}
			if ( ++$done % 20 === 0 ) {
				DeferredUpdates::doUpdates();
			}
		}
		DeferredUpdates::doUpdates();
		$this->output( "$done\n" );
	}
}

$maintClass = SeedWiki::class;
require_once RUN_MAINTENANCE_IF_MAIN;
